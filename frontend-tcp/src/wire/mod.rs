//! The remoting protocol: frames, their two header encodings, codes.

pub mod client;
pub mod codes;
pub mod command;
pub mod fastjson;
pub mod fields;
pub mod frame;
mod plain_json;
