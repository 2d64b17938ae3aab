//! Reads agent/wire/vectors-1.json both ways, as the TypeScript end does.

use super::codec::{Reader, Writer};
use super::generated::{message_type, Message};
use super::hex;
use crate::decoder::{Decoder, Item, HEADER_BYTES};
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../wire/vectors-1.json")).unwrap()
}

fn bytes(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn number(value: &Value) -> u32 {
    value.as_u64().unwrap() as u32
}

fn attached(tag: u32) -> Decoder {
    let mut decoder = Decoder::default();
    let attach = [&super::generated::MAGIC_ATTACH[..], &[1, 1, 0, 0], &tag.to_le_bytes(), &[0; 16]].concat();
    assert!(matches!(decoder.decode(&attach).item, Some(Item::Attach(_))));
    decoder
}

#[test]
fn every_vector_reads_and_writes() {
    let all = vectors();
    for vector in all["vectors"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        let frame = bytes(&vector["hex"]);
        let (stream, lane, tag) = (number(&vector["stream"]), number(&vector["lane"]) as u8, number(&vector["tag"]));
        let step = attached(tag).decode(&frame);
        assert_eq!(step.used, frame.len(), "{name}");
        match step.item.unwrap() {
            Item::Data { stream: got, lane: on, start, length } => {
                assert_eq!((got, on), (stream, lane), "{name}");
                assert_eq!(hex(&frame[start..start + length]), vector["fields"]["data"].as_str().unwrap(), "{name}");
                assert_eq!(frame[8], message_type::DATA);
            }
            Item::Message { stream: got, lane: on, message } => {
                assert_eq!((got, on), (stream, lane), "{name}");
                let (kind, fields) = message.json();
                assert_eq!((kind, &fields), (vector["message"].as_str().unwrap(), &vector["fields"]), "{name}");
                let mut writer = Writer::default();
                message.write(&mut writer);
                assert_eq!(message.type_number(), frame[8], "{name}");
                assert_eq!(hex(&writer.buffer), hex(&frame[HEADER_BYTES..frame.len() - 4]), "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn every_message_has_a_vector() {
    let all = vectors();
    let names: Vec<&str> = all["vectors"].as_array().unwrap().iter().map(|v| v["message"].as_str().unwrap()).collect();
    let schema: Value = serde_json::from_str(include_str!("../../wire/generation-1.json")).unwrap();
    for message in schema["messages"].as_array().unwrap() {
        let name = message["name"].as_str().unwrap();
        assert!(names.contains(&name), "no vector of {name}");
    }
}

#[test]
fn every_invalid_vector_is_refused() {
    for vector in vectors()["invalid"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        let mut decoder = attached(number(&vector["tag"]));
        assert_eq!(decoder.decode(&bytes(&vector["hex"])).item, Some(Item::Lost), "{name}");
        assert!(decoder.is_hunting(), "{name}");
    }
}

#[test]
fn a_type_without_a_message_is_malformed() {
    assert!(Message::read(250, &mut Reader::new(b"")).is_err());
}
