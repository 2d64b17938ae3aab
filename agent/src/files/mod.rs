//! Files, as the user who asks.

use crate::wire::generated::Message;
use crate::workers::Task;

pub fn task(message: Message, default_user: &str) -> Option<(Box<dyn Task>, bool)> {
    let _ = (message, default_user);
    None
}
