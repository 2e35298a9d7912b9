//! What went wrong between here and the hub, and what can be done about it.

use std::io::ErrorKind as Io;

use hf_hub::api::sync::ApiError;

use super::{Hub, HubModel};
use crate::{Error, ErrorKind};

/// The HTTP status that an error is about, if it is.
pub(super) fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        _ => None,
    }
}

/// Whether trying again may help: the connection broke, or the hub was busy.
pub(super) fn is_passing(error: &ApiError) -> bool {
    match error {
        ApiError::IoError(error) => !matches!(
            error.kind(),
            Io::StorageFull
                | Io::QuotaExceeded
                | Io::FileTooLarge
                | Io::PermissionDenied
                | Io::ReadOnlyFilesystem
        ),
        ApiError::RequestError(request) => match **request {
            ureq::Error::StatusCode(status) => status == 429 || status >= 500,
            ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::Protocol(_) => true,
            _ => false,
        },
        _ => false,
    }
}

impl Hub {
    /// The error about `file` of a model, or without one about its repository.
    pub(super) fn failure(&self, model: &HubModel, file: Option<&str>, error: ApiError) -> Error {
        let (repository, endpoint, cache) = (&model.repository, &self.endpoint, self.cache.display());
        let page = format!("{endpoint}/{repository}");
        let message = match (status(&error), &error) {
            (Some(401), _) if self.token.is_none() => format!(
                "there is no such repository, or it is gated or private. Check the name; accept its terms at {page}, \
                 make a token at {endpoint}/settings/tokens and give it in HF_TOKEN"
            ),
            (Some(401), _) => format!(
                "the hub does not accept the token (HF_TOKEN, or that of `hf auth login`) for it: make a new one at \
                 {endpoint}/settings/tokens, or check the name"
            ),
            (Some(403), _) => format!(
                "access is not granted: accept its terms at {page} with the account of the token, which needs the \
                 right to read gated repositories"
            ),
            (Some(404), _) if file.is_none() => "there is no such repository: check the name".to_owned(),
            (Some(404), _) => format!("there is no such file any more: see {page}/tree/main"),
            (Some(429), _) => "the hub asks to wait: try again later, or with a token in HF_TOKEN".to_owned(),
            (Some(status), _) => format!("the hub answered with status {status}: try again later"),
            (None, ApiError::IoError(io)) if matches!(io.kind(), Io::StorageFull | Io::QuotaExceeded) => {
                format!(
                    "the disk is full: make room, or choose another place than {cache} with HF_HUB_CACHE. What has come \
                 is kept; the same command goes on from there"
                )
            }
            (None, ApiError::IoError(io)) if !is_passing(&error) => {
                format!("{io}: cannot be written in {cache}")
            }
            (None, ApiError::LockAcquisition(_)) => {
                "another process is fetching the same file: wait for it, then try again".to_owned()
            }
            (None, ApiError::MissingHeader(_) | ApiError::InvalidHeader(_)) => {
                format!("{endpoint} does not answer as the hub does ({error}): is HF_ENDPOINT right?")
            }
            _ => format!(
                "the connection to {endpoint} failed ({error}): check the network, HTTPS_PROXY or HF_ENDPOINT. What has \
                 come is kept; the same command goes on from there"
            ),
        };
        let subject = file.map_or_else(|| repository.clone(), |file| format!("{repository}: {file}"));
        Error::new(ErrorKind::Hub, subject, message).because(error)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_broken_connection() {
        let hub = Hub { endpoint: "https://x".into(), cache: "/cache".into(), token: None };
        let model = "o/r".parse().unwrap();
        let message = |kind: Io| {
            let error = || ApiError::IoError(io::Error::from(kind));
            (is_passing(&error()), hub.failure(&model, Some("f"), error()).to_string())
        };
        let (passing, text) = message(Io::StorageFull);
        assert!(!passing && text.contains("disk is full") && text.contains("HF_HUB_CACHE"), "{text}");
        let (passing, text) = message(Io::UnexpectedEof);
        assert!(passing && text.contains("connection") && text.contains("goes on from there"), "{text}");
        let (passing, text) = message(Io::PermissionDenied);
        assert!(!passing && text.contains("/cache"), "{text}");
    }
}
