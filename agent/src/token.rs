//! What the one poller waits for.

/// What a token of the poller stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    Input,
    Output,
    Signals,
    Workers,
    /// Serial number, and 0 in, 1 out, 2 err.
    Process(u32, u8),
    Socket(u32),
    Watch(u32),
    /// 0 is the listener, the rest its connections.
    Elevation(u32),
    /// One of the files that count how often a limit was reached.
    Limits(u32),
    /// Packets of programs.
    Egress,
}

impl Token {
    pub fn pack(self) -> u64 {
        let (kind, which, id) = match self {
            Self::Input => (0u64, 0, 0),
            Self::Output => (1, 0, 0),
            Self::Signals => (2, 0, 0),
            Self::Workers => (3, 0, 0),
            Self::Process(serial, which) => (4, which, serial),
            Self::Socket(stream) => (5, 0, stream),
            Self::Watch(stream) => (6, 0, stream),
            Self::Elevation(caller) => (7, 0, caller),
            Self::Limits(which) => (8, 0, which),
            Self::Egress => (9, 0, 0),
        };
        kind << 56 | u64::from(which) << 48 | u64::from(id)
    }

    pub fn unpack(value: u64) -> Self {
        let id = value as u32;
        match value >> 56 {
            0 => Self::Input,
            1 => Self::Output,
            2 => Self::Signals,
            3 => Self::Workers,
            4 => Self::Process(id, (value >> 48) as u8),
            5 => Self::Socket(id),
            6 => Self::Watch(id),
            7 => Self::Elevation(id),
            8 => Self::Limits(id),
            _ => Self::Egress,
        }
    }
}
