//! The device under the stack: it receives one packet at a time, when it is told to, and sends to a link.

use super::MTU;
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// Where packets to the programs' kernel go.
pub trait Link {
    /// One that finds no room is lost, as on any network.
    fn send(&mut self, packet: &[u8]);
}

/// The one packet that is being looked at, and the way back: what the stack takes for a network device.
pub struct Wire<L> {
    pub link: L,
    /// A packet from there.
    pub received: Vec<u8>,
    pub scratch: Vec<u8>,
}

pub struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

pub struct Sending<'a, L>(&'a mut L, &'a mut Vec<u8>);

impl<L: Link> TxToken for Sending<'_, L> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        self.1.resize(length, 0);
        let result = fill(self.1);
        self.0.send(self.1);
        result
    }
}

impl<L: Link> Device for Wire<L> {
    type RxToken<'a>
        = Received<'a>
    where
        L: 'a;
    type TxToken<'a>
        = Sending<'a, L>
    where
        L: 'a;

    fn receive(&mut self, _now: Instant) -> Option<(Received<'_>, Sending<'_, L>)> {
        Some((Received(&self.received), Sending(&mut self.link, &mut self.scratch)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sending<'_, L>> {
        Some(Sending(&mut self.link, &mut self.scratch))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        // What comes in was made by the kernel we run on.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}
