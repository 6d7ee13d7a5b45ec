//! Who may use the server.

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::client::Client;
use crate::error::ApiError;

/// The keys that clients may present. Only digests are kept, so that a comparison takes the same
/// time whatever the key and however long it is.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys {
    digests: Vec<[u8; 32]>,
}

impl ApiKeys {
    /// Accepts any of `keys`; without any, everybody.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        let digests = keys.into_iter().map(digest).collect();
        Self { digests }
    }

    /// Whether everybody may use the server.
    pub fn is_open(&self) -> bool {
        self.digests.is_empty()
    }

    /// Who holds the key in the header `Authorization: Bearer <key>`.
    pub fn check(&self, headers: &HeaderMap) -> Result<Client, ApiError> {
        if self.is_open() {
            return Ok(Client::anonymous());
        }
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Err(ApiError::unauthorized(
                "an API key is needed: send the header Authorization: Bearer <key>",
            ));
        };
        let Some(key) = bearer_token(value.as_bytes()) else {
            return Err(ApiError::unauthorized("the header Authorization must read Bearer <key>"));
        };
        let given = digest(key);
        let is_known =
            self.digests.iter().fold(Choice::from(0), |known, one| known | one.ct_eq(&given));
        if bool::from(is_known) {
            Ok(Client::anonymous())
        } else {
            Err(ApiError::unauthorized("the API key is not known"))
        }
    }
}

fn digest(key: impl AsRef<[u8]>) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// What follows the scheme, whose case does not matter.
fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &ApiKeys, value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        keys.check(&headers).is_ok()
    }

    #[test]
    fn any_of_the_keys_opens() {
        let keys = ApiKeys::new(["one", "two"]);
        assert!(check(&keys, "Bearer one"));
        assert!(check(&keys, "bearer  two "));
        for wrong in ["Bearer three", "Bearer", "Bearer ", "Basic one", "one", "Bearer one two"] {
            assert!(!check(&keys, wrong), "{wrong}");
        }
        assert!(keys.check(&HeaderMap::new()).is_err());
        assert!(ApiKeys::default().check(&HeaderMap::new()).is_ok());
    }
}
