//! What expressions mean, and what is said of those that mean nothing.

use super::*;
use quickcheck::quickcheck;

/// Properties that the table speaks of: n=5 big=3000000000 d=5.5 s=it's t=true.
const PROPERTIES: &[u8] = b"n\x015\x02big\x013000000000\x02d\x015.5\x02s\x01it's\x02t\x01true\x02";

/// `None` where RocketMQ's evaluator throws, `Some(None)` is null.
fn evaluate(text: &str) -> Option<Option<bool>> {
    let sql = Sql::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    let result = match sql.evaluate(PROPERTIES) {
        None => None,
        Some(Value::Null) => Some(None),
        Some(Value::Bool(b)) => Some(Some(b)),
        Some(other) => panic!("{text}: {other:?}"),
    };
    assert_eq!(sql.matches(PROPERTIES), result == Some(Some(true)));
    result
}

#[test]
fn golden() {
    const TRUE: Option<Option<bool>> = Some(Some(true));
    const FALSE: Option<Option<bool>> = Some(Some(false));
    const NULL: Option<Option<bool>> = Some(None);
    const THROWS: Option<Option<bool>> = None;
    let table: &[(Option<Option<bool>>, &str)] = &[
        // Comparisons and types.
        (TRUE, "n = 5 and n <> 6 And n >= 5 AND n <= 5 and n > 4 and n < 6"),
        (TRUE, "n = 5L and 5 = n and 5 = 5l and n = 5.0 and 5 < 5.5 and 5.5 > 5"),
        (TRUE, "d = 5.5 and d > 5.4e0 and d < .6E+1 and d <> 5. and d = 55e-1"),
        (TRUE, "n = '5' and '5' = '5' and n < d and n <> '5.0'"),
        (TRUE, "big = 3000000000 and big > 2147483648 and 3000000000 > 1"),
        (THROWS, "big > 5"), // a small literal makes it an int, as with Java
        (THROWS, "d = 5"),
        (THROWS, "s > 1"),
        (THROWS, "s > n"),
        (THROWS, "s = 1"),
        (THROWS, "s = 1.5 and FALSE or FALSE"),
        (TRUE, "n > -1 and n > - 1 and n = +5 and n = - -5 and n > -+-4"),
        (FALSE, "n = -s"),
        (NULL, "-s = n"),
        (TRUE, "s = 'it''s' and s <> '' and s <> 'it'"),
        (TRUE, "t = TRUE and s = false and true = true and true <> false"),
        (THROWS, "TRUE = t"),
        (FALSE, "5 = TRUE"),
        (TRUE, "(n > 1) = (d > 1.0) and n = 5 = true"),
        (TRUE, "n = n and n = '5' and N is null"),
        // A property alone is no truth, whatever it says.
        (FALSE, "t"),
        (TRUE, "not t"),
        (NULL, "x"),
        (FALSE, "x AND n"),
        // Null.
        (NULL, "x = 1"),
        (NULL, "x <> 1"),
        (FALSE, "1 = x"),
        (TRUE, "1 <> x"),
        (TRUE, "x = y"),
        (NULL, "1 < x"),
        (NULL, "x < 1"),
        (TRUE, "x is null and n is not null and NULL IS NULL and (x > 1) is null"),
        (NULL, "not (x = 1)"),
        (NULL, "NULL"),
        (FALSE, "x = 1 and FALSE"),
        (FALSE, "FALSE and x = 1"),
        (NULL, "x = 1 and TRUE"),
        (TRUE, "x = 1 or TRUE"),
        (NULL, "x = 1 or FALSE"),
        (NULL, "FALSE or x = 1"),
        // What has been decided is not looked at.
        (TRUE, "TRUE or s > 1"),
        (FALSE, "FALSE and s > 1 and TRUE"),
        (THROWS, "s > 1 or TRUE"),
        (TRUE, "FALSE or TRUE or s > 1"),
        // Precedence: NOT and signs, comparison, equality, AND, OR.
        (TRUE, "TRUE or FALSE and FALSE"),
        (FALSE, "(TRUE or FALSE) and FALSE"),
        (TRUE, "FALSE and FALSE or TRUE"),
        (TRUE, "not FALSE or TRUE"),
        (FALSE, "NOT (FALSE OR TRUE)"),
        (TRUE, "not n = FALSE or n = 5"),
        (FALSE, "not n = 5"),
        (TRUE, "TRUE = n < 6 and n < 6 = TRUE"),
        (FALSE, "not n is null"),
        // Ranges and sets.
        (TRUE, "n between 5 and 5 and n BETWEEN 1 AND 9 and n between -1 and d"),
        (FALSE, "n between 6 and 9"),
        (TRUE, "n not between 6 and 9 and n not between 9 and 6"),
        (FALSE, "n not between 1 and 9"),
        (NULL, "x between 1 and 2"),
        (NULL, "n between 1 and x"),
        (FALSE, "n between 6 and x"),
        (NULL, "x not between 1 and 2"),
        (TRUE, "n in ('4', '5') and s in ('it''s') and n not in ('6')"),
        (FALSE, "n in ('05')"),
        (NULL, "x in ('1')"),
        (NULL, "x not in ('1')"),
        // Parts of texts. Here null is plainly not.
        (TRUE, "s contains 't''' and s startswith 'it' and s EndsWith '''s'"),
        (TRUE, "s not contains 'x' and s not startswith 't' and s not endswith 'it'"),
        (FALSE, "s not contains 't' or s not startswith 'it' or s not endswith 's'"),
        (FALSE, "x contains 'a' or x not contains 'a'"),
        (FALSE, "s contains '' or s not contains '' or 5 contains '5'"),
        (FALSE, "(s > 1) contains '' or (s > 1) not contains ''"),
        (TRUE, "not (x startswith 'a') and '12' contains '2'"),
        // Comments, blanks, case.
        (TRUE, "\t n /* five **/ =\r\n5 -- and FALSE\n AnD TrUe\x0c -- or"),
        (FALSE, "_a$1 is not null or $ IS NOT NULL"),
    ];
    for (wanted, text) in table {
        assert_eq!(evaluate(text), *wanted, "{text}");
    }
}

#[test]
fn errors_say_where_and_what() {
    let table = [
        ("", "at character 1: found the end, expected a property, a number"),
        ("a", ""),
        ("a = ", "at character 5: found the end, expected a property"),
        ("a == 1", "at character 4: found =, expected a property"),
        ("a != 1", "at character 3: found !, expected a name"),
        ("é = 1", "at character 1: found é, expected a name"),
        ("'é' = 'é' and b ? 1", "at character 17: found ?, "),
        ("a = 'b", "at character 5: found a text without an end"),
        ("a = 1 b", "at character 7: found b, expected AND, OR, a comparison or the end"),
        ("(a = 1", "at character 7: found the end, expected AND, OR, a comparison or )"),
        ("(a = 1))", "at character 8: found ), expected AND"),
        ("a = 07", "at character 6: found 7"),
        ("a = 0x1F", "at character 6: found x1F"),
        ("a = 1 - - b", "at character 7: found -"),
        ("a in ()", "at character 7: found ), expected a text in quotes"),
        ("a in (1)", "at character 7: found 1, expected a text in quotes"),
        ("a in ('1'", "at character 10: found the end, expected , or )"),
        ("a in '1'", "at character 6: found '1', expected ("),
        ("'a' in ('1')", "at character 1: IN wants a property"),
        ("a between 1", "at character 12: found the end, expected AND"),
        ("a and between 2 and 10", "at character 7: found BETWEEN, expected a property"),
        ("a between 10 and 0", "at character 18: BETWEEN wants the lower number first"),
        ("a between 'a' and 'b'", "at character 11: only numbers have an order"),
        ("a not like 'x'", "at character 7: found like, expected BETWEEN, IN, CONTAINS"),
        ("a is 1", "at character 6: found 1, expected NULL or NOT NULL"),
        ("a is not 1", "at character 10: found 1, expected NULL"),
        ("a is null > 1", "at character 11: found >, expected AND"),
        ("a = null", "at character 5: NULL cannot be compared"),
        ("a > 'b'", "at character 5: only numbers"),
        ("a > TRUE", "at character 5: only numbers"),
        ("not a > 1", "at character 1: only numbers"),
        ("a > 1 > 0", "at character 1: only numbers"),
        ("TRUE = 1", "at character 8: TRUE and FALSE are neither"),
        ("1", "at character 1: a condition is wanted"),
        ("a and 'b'", "at character 7: a condition is wanted"),
        ("-a", "at character 1: a condition is wanted"),
        ("a > 9223372036854775808", "at character 5: the number is too big"),
        ("a > 1e999", "at character 5: the number is too big"),
        ("a > 0.0", "at character 5: the number is too big or too near 0"),
        ("a contains 1", "at character 12: found 1, expected a text in quotes"),
        ("a = .", "at character 5: found ., "),
        ("a + 1", "at character 3: found +, "),
    ];
    for (text, wanted) in table {
        let got = Sql::parse(text).map_or_else(|e| e.to_string(), |_| String::new());
        assert!(got.starts_with(wanted) && got.is_empty() == wanted.is_empty(), "{text}: {got}");
    }
}

#[test]
fn has_limits() {
    let parse = |text: String| Sql::parse(&text);
    for open in ["(", "-", "not ", "+"] {
        assert!(parse(format!("{} a", open.repeat(99))).is_ok() || open == "(" || open == "-");
        let deep = parse(format!("{} a", open.repeat(30_000 / open.len())));
        assert!(matches!(deep, Err(SqlError::TooDeep { .. })), "{open}");
    }
    assert!(parse(format!("{}a{}", "(".repeat(99), ")".repeat(99))).is_ok());
    // A row of any length is no depth.
    let row = parse(format!("a = 1{}", " or a = 1".repeat(7_000))).unwrap();
    assert!(row.matches(b"a\x011\x02") && !row.matches(b"a\x012\x02"));
    let equal = parse(format!("a = 1{}", " = TRUE".repeat(9_000))).unwrap();
    assert!(equal.matches(b"a\x011\x02"));
    assert_eq!(parse(" ".repeat(MAX_LEN + 1)), Err(SqlError::TooLong(MAX_LEN + 1)));
}

#[test]
fn doubles_are_read_as_in_java() {
    for (text, wanted) in [
        ("5", Some(5.0)),
        (" 5.\t", Some(5.0)),
        ("-.5e1", Some(-5.0)),
        ("+1E-1", Some(0.1)),
        ("1d", Some(1.0)),
        ("1.5F", Some(1.5)),
        ("-Infinity", Some(f64::NEG_INFINITY)),
        ("inf", None),
        ("nan", None),
        ("", None),
        ("-", None),
        ("1 2", None),
        ("1dd", None),
    ] {
        assert_eq!(double(text), wanted, "{text:?}");
    }
    assert!(double("-NaN").is_some_and(f64::is_nan));
}

const PARTS: [&str; 24] = [
    "a", "n", "=", "<>", ">", "<=", "(", ")", "NOT", "AND", "or", "BETWEEN", "in", "is", "NULL",
    "TRUE", "'x'", ",", "-", "5", "5.5", "contains", "/*", "--\n",
];

/// Neither reading nor looking panics, and an error is somewhere in the text.
fn is_read_or_refused(text: &str, properties: &[u8]) -> bool {
    let (at, end) = match Sql::parse(text) {
        Ok(sql) => return sql.matches(properties) == sql.clone().matches(properties),
        Err(SqlError::TooLong(len)) => return len > MAX_LEN,
        Err(SqlError::TooDeep { at }) => (at, text.chars().count()),
        Err(SqlError::Senseless { at, .. }) => (at, text.chars().count()),
        Err(SqlError::Unexpected { at, .. }) => (at, text.chars().count() + 1),
    };
    (1..=end).contains(&at)
}

quickcheck! {
    fn any_text_is_read_or_refused(text: String, properties: Vec<u8>) -> bool {
        is_read_or_refused(&text, &properties)
    }

    fn any_row_of_tokens_is_read_or_refused(row: Vec<u8>) -> bool {
        let parts = row.iter().map(|n| PARTS[usize::from(*n) % PARTS.len()]);
        let text = parts.collect::<Vec<_>>().join(" ");
        is_read_or_refused(&text, PROPERTIES)
    }

    fn any_change_of_an_expression_is_read_or_refused(at: usize, with: char, cut: bool) -> bool {
        let whole = "(a = 'é''s' OR n NOT IN ('1', '2')) AND NOT (d BETWEEN -1 AND 2.5e3) /* c */";
        let mut chars: Vec<char> = whole.chars().collect();
        let at = at % chars.len();
        if cut { chars.remove(at); } else { chars[at] = with; }
        let text: String = chars.into_iter().collect();
        is_read_or_refused(&text, PROPERTIES)
    }

    fn what_holds_of_sound_expressions(picks: Vec<u8>) -> bool {
        // Not not is the same; and De Morgan's law holds in three values.
        let atoms = ["n = 5", "x = 1", "t", "n > 6", "s contains 'i'", "x is null"];
        let atom = |n: usize| atoms[usize::from(*picks.get(n).unwrap_or(&0)) % atoms.len()];
        let (a, b) = (atom(0), atom(1));
        evaluate(&format!("not not ({a} or {b})")) == evaluate(&format!("{a} or {b}"))
            && evaluate(&format!("not ({a} and {b})"))
                == evaluate(&format!("not ({a}) or not ({b})"))
    }
}
