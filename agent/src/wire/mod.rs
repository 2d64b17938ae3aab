//! The wire between host and agent. The schema is `agent/wire/generation-1.json`; see `agent/wire/README.md`.

pub mod codec;
pub mod generated;
#[cfg(test)]
mod vectors;

#[cfg(test)]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
