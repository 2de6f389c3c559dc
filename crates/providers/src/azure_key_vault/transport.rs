//! The network under the SDK: our own client, with bodies that end.
use crate::MOST_BYTES;
use azure_core::error::ErrorKind;
use azure_core::http::{AsyncRawResponse, HttpClient, Request};
use futures_util::StreamExt as _;

/// A client whose answers are cut off where no answer of Key Vault or of a login would be any longer.
#[derive(Debug)]
pub(super) struct Network(pub(super) reqwest::Client);

#[async_trait::async_trait]
impl HttpClient for Network {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let (status, headers, mut chunks) = self.0.execute_request(request).await?.deconstruct();
        let mut body = Vec::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            if body.len() + chunk.len() > MOST_BYTES {
                let why = "the answer is longer than any that Key Vault gives";
                return Err(azure_core::Error::with_message(ErrorKind::DataConversion, why));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(AsyncRawResponse::from_bytes(status, headers, body))
    }
}
