//! What a call is answered with.

use ferrun::Kind;
use prost::Message;

use crate::messages::{Empty, Response, Status};

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// The connection that it came by.
    pub connection: u64,
    /// The call, of those by that connection.
    pub stream: u32,
}

/// What callers branch on, by the numbers of gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Anything else.
    Unknown = 2,
    /// What was given is not valid.
    InvalidArgument = 3,
    /// There is no such container or process, or it has ended.
    NotFound = 5,
    /// The ID is taken.
    AlreadyExists = 6,
    /// The state does not allow it.
    FailedPrecondition = 9,
    /// There is no such service or method. containerd takes it for an older shim.
    Unimplemented = 12,
}

/// Why a call fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What it is.
    pub code: Code,
    /// Why, as one line.
    pub message: String,
}

impl Refusal {
    /// With this text.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// What the runtime has failed with, after `sentence`.
    pub fn of(sentence: &str, error: &ferrun::Error) -> Self {
        let code = match error.kind() {
            Kind::NotFound => Code::NotFound,
            Kind::Exists => Code::AlreadyExists,
            // Not `Unimplemented`, on which containerd would ask an older service.
            Kind::WrongState | Kind::Unsupported => Code::FailedPrecondition,
            Kind::Configuration => Code::InvalidArgument,
            _ => Code::Unknown,
        };
        Self::new(code, format!("{sentence}: {error}"))
    }
}

/// A message for who has called, or why there is none.
pub type Answer = Result<Vec<u8>, Refusal>;

/// This message.
pub fn answer(message: &impl Message) -> Answer {
    Ok(message.encode_to_vec())
}

/// That it is done.
pub fn done() -> Answer {
    answer(&Empty {})
}

/// The answer as it goes over the wire.
pub fn response(answer: Answer) -> Vec<u8> {
    let response = match answer {
        Ok(payload) => Response { status: None, payload },
        Err(Refusal { code, mut message }) => {
            // What containerd's own shim ends with, and some look for.
            message += match code {
                Code::NotFound => ": not found",
                Code::AlreadyExists => ": already exists",
                Code::FailedPrecondition => ": failed precondition",
                Code::Unimplemented => ": not implemented",
                Code::Unknown | Code::InvalidArgument => "",
            };
            Response { status: Some(Status { code: code as i32, message }), payload: Vec::new() }
        }
    };
    response.encode_to_vec()
}
