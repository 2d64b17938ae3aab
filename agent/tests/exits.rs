mod common;

use bulkhead_agent::wire::generated::*;
use common::*;
use std::time::{Duration, Instant};

/// Others may hold its pipes for long after.
#[test]
fn an_exit_is_told_after_all_that_the_process_wrote() {
    let mut agent = Agent::start();
    let streams: Vec<u32> = (0..40)
        .map(|_| agent.wire.open(&exec(&["/bin/sh", "-c", "sleep 100 & echo out; echo err >&2; kill -9 $$"])))
        .collect();
    let mut seen: std::collections::HashMap<u32, (Vec<u8>, bool)> = std::collections::HashMap::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while seen.values().filter(|(_, exited)| *exited).count() < streams.len() {
        assert!(Instant::now() < deadline, "an exit was never told");
        match agent.wire.receive() {
            Some(Received::Data(stream, lane, bytes)) => {
                let (told, exited) = seen.entry(stream).or_default();
                assert!(!*exited, "output after the exit");
                told.extend_from_slice(&bytes);
                assert!(lane == LANE_OUT || lane == LANE_ERR);
            }
            Some(Received::Message(stream, _, Message::Exited(_))) => {
                let (told, exited) = seen.entry(stream).or_default();
                assert_eq!(told.len(), "out\nerr\n".len(), "the exit came before the output");
                *exited = true;
            }
            _ => {}
        }
    }
}
