//! Signatures of requests: HMAC-SHA1 over the values of all fields, in the order of their names,
//! and the body; as Base64 in a field of its own.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use subtle::ConstantTimeEq;

use crate::conn::Request;
use crate::wire::command::{Body, Command, Value};
use crate::wire::fields::Fields;

/// Fields with the account's name, what it signs with, and a token that nobody looks at.
pub const ACCESS_KEY: &str = "AccessKey";
pub const SIGNATURE: &str = "Signature";
pub const SECURITY_TOKEN: &str = "SecurityToken";
/// Clients put this in before they sign or after it, as their version is.
const UNIQUE_KEY_QUERY: &str = "_UNIQUE_KEY_QUERY";
/// No request has nearly as many fields.
const MOST_FIELDS: usize = 64;

/// Whether a request bears the signature of `key`. How long it takes does not depend on where
/// a wrong signature differs.
pub fn is_signed(request: &Request<'_>, key: &hmac::Key) -> bool {
    let fields = &request.head.fields;
    let mut given = [0; 64];
    let Some(text) = fields.get(SIGNATURE) else { return false };
    let Ok(len) = STANDARD.decode_slice(text, &mut given) else { return false };
    let signs = |without: &str| {
        let right = signature(key, fields, request.body, without);
        right.is_some_and(|right| right.as_ref().ct_eq(&given[..len]).into())
    };
    signs(SIGNATURE) || (fields.get(UNIQUE_KEY_QUERY).is_some() && signs(UNIQUE_KEY_QUERY))
}

/// The signature of fields, the old one and `without` left out, and a body.
fn signature(
    key: &hmac::Key,
    fields: &Fields<'_>,
    body: &[u8],
    without: &str,
) -> Option<hmac::Tag> {
    let mut order = [0; MOST_FIELDS];
    let order = order.get_mut(..fields.0.len())?;
    for (n, place) in order.iter_mut().enumerate() {
        *place = n;
    }
    // Of two fields with one name the last one counts, everywhere.
    order.sort_unstable_by_key(|n| (&fields.0[*n].0, *n));
    let mut hmac = hmac::Context::with_key(key);
    for (at, n) in order.iter().enumerate() {
        let (name, value) = &fields.0[*n];
        let again = order.get(at + 1).is_some_and(|next| fields.0[*next].0 == *name);
        if name != SIGNATURE && name != without && !again {
            hmac.update(value.as_bytes());
        }
    }
    hmac.update(body);
    Some(hmac.sign())
}

/// What a client signs its requests with.
#[derive(Clone)]
pub struct Credentials {
    access_key: String,
    key: hmac::Key,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.access_key)
    }
}

impl Credentials {
    pub fn new(access_key: impl Into<String>, secret_key: &str) -> Credentials {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret_key.as_bytes());
        Credentials { access_key: access_key.into(), key }
    }

    /// The signature of a request's fields, as they are, and its body.
    pub fn signature(&self, fields: &Fields<'_>, body: &[u8]) -> String {
        let signature = signature(&self.key, fields, body, SIGNATURE);
        signature.map(|tag| STANDARD.encode(tag)).unwrap_or_default()
    }

    /// Puts account and signature into a request.
    pub fn sign(&self, command: &mut Command) {
        command.fields.retain(|(name, _)| name != ACCESS_KEY && name != SIGNATURE);
        command.fields.push((ACCESS_KEY.into(), self.access_key.clone().into()));
        let text = |value: &Value| match value {
            Value::Number(number) => number.to_string(),
            Value::Text(text) => text.to_string(),
        };
        let fields = command.fields.iter().map(|(name, value)| (name.clone(), text(value).into()));
        let body = match &command.body {
            Body::Bytes(body) => &body[..],
            // Nobody but a broker sends records.
            Body::Empty | Body::Records(_) => &[],
        };
        let signature = self.signature(&Fields(fields.collect()), body);
        command.fields.push((SIGNATURE.into(), signature.into()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::wire::command::{Head, decode};
    use crate::wire::frame::Encoding;

    fn key(secret: &str) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes())
    }

    fn head<'a>(fields: &[(&'a str, &'a str)]) -> Head<'a> {
        let fields = fields.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        Head { code: 310, fields: Fields(fields), ..Head::default() }
    }

    fn signed(head: &Head<'_>, body: &[u8], secret: &str) -> bool {
        is_signed(
            &Request { head, body, encoding: Encoding::Json, read_at: Instant::now() },
            &key(secret),
        )
    }

    /// What clients of 4.9.7 and 5.5.0 made of these fields and this body.
    const JAVA: &[(&str, &str)] = &[
        ("a", "P"),
        ("b", "topicB"),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", "1"),
        ("f", "0"),
        ("g", "1700000000000"),
        ("h", "0"),
        ("i", "KEYS\u{1}ké\u{2}"),
        ("j", "0"),
        ("k", "false"),
        ("m", "false"),
        ("Signature", "8b+aRnUlF+6pGCSlGpCZFNC6VaI="),
        ("AccessKey", "RocketMQ"),
    ];
    const BODY: &[u8] = "hello wörld".as_bytes();

    #[test]
    fn signatures_of_java_clients() {
        assert!(signed(&head(JAVA), BODY, "12345678"));
        // Binary headers of 5.x have each field twice.
        let mut twice = [JAVA, JAVA].concat();
        assert!(signed(&head(&twice), BODY, "12345678"));
        // The last one counts for the handler, so it does here.
        twice[1].1 = "other";
        assert!(signed(&head(&twice), BODY, "12345678"));
        twice.push(("b", "other"));
        assert!(!signed(&head(&twice), BODY, "12345678"));
        let none = [("AccessKey", "RocketMQ"), ("Signature", "IUc8rrO/0gDch8CjObLQsW2rsiA=")];
        assert!(signed(&head(&none), b"", "12345678"));
        let token = [
            ("SecurityToken", "token"),
            ("Signature", "kaCmkH3oQdbU96yZZPHRcrWIkZw="),
            ("AccessKey", "RocketMQ"),
        ];
        assert!(signed(&head(&token), b"", "12345678"));
        // A client may have added this before it signed, or afterwards.
        let late = [&none[..], &[("_UNIQUE_KEY_QUERY", "true")]].concat();
        assert!(signed(&head(&late), b"", "12345678"));
    }

    #[test]
    fn a_frame_of_a_java_client() {
        let header = br#"{"code":310,"extFields":{"a":"P","b":"topicB","c":"TBW102","d":"4","e":"1","f":"0","g":"1700000000000","h":"0","i":"KEYS\u0001k\u00e9\u0002","j":"0","k":"false","m":"false","Signature":"8b+aRnUlF+6pGCSlGpCZFNC6VaI=","AccessKey":"RocketMQ"},"flag":0,"language":"JAVA","opaque":7,"serializeTypeCurrentRPC":"JSON","version":0}"#;
        assert!(signed(&decode(Encoding::Json, header).unwrap(), BODY, "12345678"));
    }

    #[test]
    fn whatever_is_changed_is_noticed() {
        for n in 0..JAVA.len() {
            let mut changed = JAVA.to_vec();
            changed[n].1 = "x";
            assert!(!signed(&head(&changed), BODY, "12345678"), "{}", JAVA[n].0);
            changed.remove(n);
            assert!(!signed(&head(&changed), BODY, "12345678"), "{}", JAVA[n].0);
        }
        assert!(!signed(&head(JAVA), b"hello", "12345678"));
        assert!(!signed(&head(JAVA), BODY, "12345679"));
        for bad in ["", "=", "8b+aRnUlF+6pGCSlGpCZFNC6Va==", &"A".repeat(200)] {
            let mut changed = JAVA.to_vec();
            changed[12].1 = bad;
            assert!(!signed(&head(&changed), BODY, "12345678"), "{bad}");
        }
        let many: Vec<_> = (0..100).map(|_| JAVA[0]).chain(JAVA.to_vec()).collect();
        assert!(!signed(&head(&many), BODY, "12345678"));
    }

    #[test]
    fn our_own_signature_and_no_secret_in_sight() {
        let mut command = Command::new(310).body(BODY);
        for (name, value) in JAVA.iter().filter(|(n, _)| n.len() == 1) {
            command = command.field(*name, *value);
        }
        let credentials = Credentials::new("RocketMQ", "12345678");
        credentials.sign(&mut command);
        credentials.sign(&mut command);
        let value = Value::Text(JAVA[12].1.into());
        assert_eq!(command.fields.iter().filter(|f| f.0 == SIGNATURE).count(), 1);
        assert!(command.fields.contains(&(SIGNATURE.into(), value)), "{command:?}");
        assert!(!format!("{credentials:?}").contains("12345678"));
    }
}
