//! The one error type of the crate: what kind of thing went wrong, in which file, tensor, key or
//! operation, and what was expected and found there.

use std::fmt::Display;

/// What went wrong, for callers that react differently to different failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// An argument or request that cannot be served as asked; the caller can correct it.
    Argument,
    /// A file could not be read or written.
    Io,
    /// `config.json` or another metadata file is missing a key or holds an impossible value.
    Config,
    /// A weight file is damaged, incomplete, or does not match the configuration.
    Checkpoint,
    /// A model cannot be had from the hub: it is not there, not for everyone, or the connection failed.
    Hub,
    /// The tokenizer's files are missing or damaged, or a token id is outside the vocabulary.
    Tokenizer,
    /// A chat template failed to parse or refused the conversation.
    Template,
    /// No usable GPU adapter, or the device cannot do what is needed.
    Device,
    /// The device has not enough memory for what was asked.
    OutOfMemory,
    /// The device was lost (driver reset, unplugged); it must be opened again.
    DeviceLost,
    /// A shader did not compose or compile: a bug of this crate or of the driver.
    Shader,
    /// The model produced NaN or infinity where a number was needed.
    NonFinite,
}

/// An error that names its subject: a file, tensor, key, option or operation.
#[derive(Debug, thiserror::Error)]
#[error("{subject}: {message}")]
pub struct Error {
    kind: ErrorKind,
    subject: String,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error about `subject`, told in one sentence without a full stop.
    pub fn new(kind: ErrorKind, subject: impl Display, message: impl Display) -> Self {
        Self { kind, subject: subject.to_string(), message: message.to_string(), source: None }
    }

    /// An error whose message is "expected …, found …".
    pub fn expected(
        kind: ErrorKind,
        subject: impl Display,
        expected: impl Display,
        found: impl Display,
    ) -> Self {
        Self::new(kind, subject, format_args!("expected {expected}, found {found}"))
    }

    /// The failure of a file operation on `path`.
    pub fn io(path: impl AsRef<std::path::Path>, source: std::io::Error) -> Self {
        Self::new(ErrorKind::Io, path.as_ref().display(), &source).because(source)
    }

    /// Attaches the underlying cause, reachable through `std::error::Error::source`.
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Prefixes the subject with the outer thing it was found in (`outer: subject`).
    pub fn within(mut self, outer: impl Display) -> Self {
        self.subject = format!("{outer}: {}", self.subject);
        self
    }

    /// The documented kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The file, tensor, key, option or operation that the error is about.
    pub fn subject(&self) -> &str {
        &self.subject
    }
}
