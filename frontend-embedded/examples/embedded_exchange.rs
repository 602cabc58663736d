//! Writes to a store, or consumes from it, for the tests with other clients:
//! `embedded_exchange FOLDER write TOPIC PREFIX COUNT` says the id of each message,
//! `embedded_exchange FOLDER consume TOPIC GROUP COUNT` says the body of each.

use std::time::Duration;

use mq_embedded::{Message, Mq};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [folder, what, topic, name, count] = args[..] else {
        return Err("usage: embedded_exchange FOLDER write|consume TOPIC PREFIX|GROUP COUNT".into());
    };
    let count: usize = count.parse()?;
    let mq = Mq::open(folder)?;
    match what {
        "write" => {
            for n in 0..count {
                let body = format!("{name}{n}");
                let message = Message::new(topic, &body).tag("even").key(&body);
                println!("{}", mq.producer().send(&message.delay_level(u8::from(n == 0)))?.id());
            }
        }
        _ => {
            let consumer = mq.consumer(name).subscribe(topic, "*").start()?;
            let mut left = count;
            while left > 0 {
                let messages = consumer.poll(left, Duration::from_secs(20))?;
                if messages.is_empty() {
                    return Err(format!("{left} messages are missing").into());
                }
                left -= messages.len();
                for message in messages {
                    println!("{}", String::from_utf8_lossy(&message.content()?));
                    message.ack();
                }
            }
        }
    }
    mq.close()?;
    Ok(())
}
