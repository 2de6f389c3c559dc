//! A Redis Stream.
use super::redis::{ANSWER, RedisTarget, told};
use crate::broker_config::BadBroker;
use crate::event::{Event, Sink, SinkError};
use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, Value};
use std::collections::HashMap;
use std::time::Duration;
use tidegate_gate::Name;

/// The least that a server's `proto-max-bulk-len` can be. What is larger may be refused, and the connection with it, so it
/// is sent alone: what was sent beside it would be without an answer, and be added twice.
const LARGE: usize = 1 << 20;

/// Adds each event to a stream. Redis cannot tell an event that is sent again: an attempt whose answer got lost adds
/// its events twice.
#[derive(Debug)]
pub struct RedisSink {
    target: RedisTarget,
    stream: String,
    field: String,
    max_len: Option<u64>,
    timeout: Duration,
    link: Option<Link>,
}

#[derive(Debug)]
struct Link {
    connection: MultiplexedConnection,
    /// The server's `proto-max-bulk-len`, where the user may ask for it.
    largest: Option<usize>,
}

impl RedisSink {
    /// A sink of this stream, each event in that field; nothing is connected yet.
    ///
    /// # Errors
    /// [`BadBroker`].
    pub fn new(
        target: RedisTarget,
        stream: &str,
        field: &str,
        max_len: Option<u64>,
        timeout: Duration,
    ) -> Result<RedisSink, BadBroker> {
        target.check()?;
        Ok(RedisSink {
            target,
            stream: stream.to_owned(),
            field: field.to_owned(),
            max_len,
            timeout,
            link: None,
        })
    }

    async fn connect(&self) -> Result<Link, SinkError> {
        let answer = ANSWER.min(self.timeout);
        let mut connection = self.target.connect(answer).await.map_err(SinkError::retry)?;
        let asked: RedisResult<HashMap<String, usize>> = redis::cmd("CONFIG")
            .arg("GET")
            .arg("proto-max-bulk-len")
            .query_async(&mut connection)
            .await;
        Ok(Link {
            connection,
            largest: asked.ok().and_then(|answer| answer.into_values().next()),
        })
    }

    /// Adds these in one go; an error says how many were added before it.
    async fn add(&self, link: &mut Link, events: &[Event]) -> Result<(), SinkError> {
        let mut adds = redis::pipe();
        for event in events {
            let add = adds.cmd("XADD").arg(&self.stream);
            if let Some(max_len) = self.max_len {
                add.arg("MAXLEN").arg("~").arg(max_len);
            }
            add.arg("*").arg(&self.field).arg(&event.payload[..]);
        }
        adds.ignore_errors();
        let added: RedisResult<Vec<RedisResult<Value>>> = adds.query_async(&mut link.connection).await;
        let (taken, error) = match added {
            Err(error) => (0, error),
            Ok(added) => {
                let mut added = added.into_iter().enumerate();
                match added.find_map(|(n, one)| Some((n, one.err()?))) {
                    None => return Ok(()),
                    Some(failed) => failed,
                }
            }
        };
        if let [event] = events
            && (refuses_length(&error) || self.was_refused(event, link, &error).await)
        {
            return Err(too_large(0));
        }
        Err(SinkError::Retry {
            taken,
            after: None,
            why: told(&error).into(),
        })
    }

    /// Whether an event that went with its connection went for its size.
    ///
    /// The server refuses a value as soon as it has read how long it is, answers that, and closes the connection, on
    /// which the rest is still being sent: its reset may come before the answer is read, and the answer is lost. So it is
    /// asked once more, with the length alone, on a connection on which nothing more is sent. A server that takes the
    /// length says nothing, which is no refusal; nor is it one if it cannot be asked.
    async fn was_refused(&self, event: &Event, link: &Link, error: &RedisError) -> bool {
        let length = event.payload.len();
        if length < LARGE || link.largest.is_some() || !error.is_connection_dropped() {
            return false;
        }
        let Ok(client) = self.target.client() else {
            return false;
        };
        let answer = ANSWER.min(self.timeout);
        let ask = move || -> RedisResult<Value> {
            let mut connection = client.get_connection_with_timeout(answer)?;
            connection.set_read_timeout(Some(answer))?;
            // A command that changes nothing, had it ever an end.
            connection.send_packed_command(format!("*2\r\n$4\r\nECHO\r\n${length}\r\n").as_bytes())?;
            connection.recv_response()?.extract_error()
        };
        // The library sends what is not a whole command over its blocking connection only.
        let answer = tokio::task::spawn_blocking(ask).await;
        matches!(answer, Ok(Err(error)) if refuses_length(&error))
    }
}

fn refuses_length(error: &RedisError) -> bool {
    error
        .detail()
        .is_some_and(|detail| detail.contains("invalid bulk length"))
}

fn too_large(taken: usize) -> SinkError {
    SinkError::Reject {
        taken,
        why: "larger than the server's proto-max-bulk-len".into(),
        detail: None,
    }
}

/// The same error, of events that come after so many.
fn after(before: usize, error: SinkError) -> SinkError {
    match error {
        SinkError::Retry { taken, after, why } => SinkError::Retry {
            taken: before + taken,
            after,
            why,
        },
        SinkError::Reject { taken, why, detail } => SinkError::Reject {
            taken: before + taken,
            why,
            detail,
        },
        fatal => fatal,
    }
}

impl Sink for RedisSink {
    fn describe(&self) -> Name {
        format!("redis {}", self.stream).into()
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.timeout)
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        self.link = Some(self.connect().await?);
        Ok(())
    }

    async fn write(&mut self, events: &[Event]) -> Result<(), SinkError> {
        // Taken out, so that an attempt that is dropped half way leaves no connection with answers still to come.
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.connect().await?,
        };
        let mut written = 0;
        for some in events.chunk_by(|a, b| a.payload.len() < LARGE && b.payload.len() < LARGE) {
            let fits = |event: &Event| link.largest.is_none_or(|largest| event.payload.len() <= largest);
            if !some.iter().all(fits) {
                // Smaller ones are not alone, and always fit.
                self.link = Some(link);
                return Err(too_large(written));
            }
            if let Err(error) = self.add(&mut link, some).await {
                return Err(after(written, error));
            }
            written += some.len();
        }
        self.link = Some(link);
        Ok(())
    }
}
