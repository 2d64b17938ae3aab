//! Connects to a Unix socket as a user.

use super::{absolute, Asker};
use crate::failure::{shown, Failure};
use crate::sockets::dial_failure;
use crate::sys::socket;
use crate::wire::generated::DialUnix;
use crate::workers::{Input, Next, Output, Task};

pub struct DialTask {
    asker: Asker,
    request: DialUnix,
}

impl DialTask {
    pub fn new(asker: Asker, request: DialUnix) -> Self {
        Self { asker, request }
    }
}

impl Task for DialTask {
    fn step(&mut self, _input: Input) -> Result<Output, Failure> {
        let (user, _acting) = self.asker.act()?;
        let path = absolute(&self.request.path, user)?;
        let fd = socket::connect_unix(&path).map_err(|errno| dial_failure(errno, &shown(&path)))?;
        Ok(Output { messages: Vec::new(), data: Vec::new(), next: Next::Socket(fd) })
    }
}
