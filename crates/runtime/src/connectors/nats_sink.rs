//! A NATS JetStream subject.
use super::http_sink::key_part;
use super::nats::{ANSWER, NatsTarget, Said, is_up};
use crate::broker_config::BadBroker;
use crate::event::{Event, Sink, SinkError, Token};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context, ErrorCode};
use std::fmt::Write as _;
use std::future::IntoFuture;
use std::time::Duration;
use tidegate_gate::Name;

/// Publishes each event to a subject, and has it once the JetStream stream there says so.
///
/// `Nats-Msg-Id` is the event's place at its source, so that the server drops what is sent again within the stream's
/// duplicate window.
#[derive(Debug)]
pub struct NatsSink {
    target: NatsTarget,
    subject: String,
    timeout: Duration,
    key: String,
    said: Said,
    context: Option<Context>,
}

impl NatsSink {
    /// A sink of this subject; `stream` is the first part of each `Nats-Msg-Id`. Nothing is connected yet.
    ///
    /// # Errors
    /// [`BadBroker`].
    pub fn new(
        stream: &str,
        target: NatsTarget,
        subject: &str,
        timeout: Duration,
    ) -> Result<NatsSink, BadBroker> {
        target.check()?;
        Ok(NatsSink {
            target,
            subject: subject.to_owned(),
            timeout,
            key: key_part(stream),
            said: Said::default(),
            context: None,
        })
    }

    /// The connection that there is, or a new one where that is no use any more.
    async fn connected(&mut self) -> Result<Context, SinkError> {
        if let Some(context) = &self.context
            && is_up(&context.client())
            && !self.said.deaf()
        {
            return Ok(context.clone());
        }
        self.context = None;
        let client = self.target.connect(&self.said).await.map_err(SinkError::retry)?;
        let mut context = jetstream::new(client);
        context.set_timeout(ANSWER.min(self.timeout));
        Ok(self.context.insert(context).clone())
    }

    fn id_of(&self, token: Token) -> String {
        let mut id = format!("{}-{}-{}", self.key, token.partition, token.position);
        if token.part > 0 {
            // Writing to memory cannot fail.
            let _ = write!(id, "-{}", token.part);
        }
        id
    }

    fn failed(&self, taken: usize, error: jetstream::context::PublishError) -> SinkError {
        let retry = |why: Name| SinkError::Retry {
            taken,
            after: None,
            why,
        };
        let refused = |why: &str| SinkError::Reject {
            taken,
            why: why.into(),
            detail: None,
        };
        match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => refused("larger than the server's max_payload"),
            PublishErrorKind::StreamNotFound => retry(
                format!(
                    "no JetStream stream takes subject \"{}\": create one",
                    self.subject
                )
                .into(),
            ),
            PublishErrorKind::Other => {
                let source = std::error::Error::source(&error);
                let code = source
                    .and_then(|e| e.downcast_ref::<jetstream::Error>())
                    .map(|e| e.error_code());
                match code {
                    Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM) => {
                        refused("larger than the stream's max_msg_size")
                    }
                    _ => retry(self.said.beside(&error)),
                }
            }
            _ => retry(self.said.beside(&error)),
        }
    }
}

impl Sink for NatsSink {
    fn describe(&self) -> Name {
        format!("nats {}", self.subject).into()
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.timeout)
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        self.connected().await.map(drop)
    }

    async fn write(&mut self, events: &[Event]) -> Result<(), SinkError> {
        let context = self.connected().await?;
        // All are sent before the first answer is waited for; the server answers in order.
        let mut answers = Vec::with_capacity(events.len());
        let mut unsent = None;
        for event in events {
            let message = PublishMessage::build()
                .payload(event.payload.clone())
                .message_id(self.id_of(event.token));
            match context.send_publish(self.subject.clone(), message).await {
                Ok(answer) => answers.push(answer),
                Err(error) => {
                    unsent = Some(error);
                    break;
                }
            }
        }
        let sent = answers.len();
        for (taken, answer) in answers.into_iter().enumerate() {
            if let Err(error) = answer.into_future().await {
                return Err(self.failed(taken, error));
            }
        }
        match unsent {
            Some(error) => Err(self.failed(sent, error)),
            None => Ok(()),
        }
    }
}
