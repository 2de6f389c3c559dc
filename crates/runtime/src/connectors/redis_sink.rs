//! A Redis Stream.
use super::redis::{ANSWER, RedisTarget, told};
use crate::broker_config::BadBroker;
use crate::event::{Event, Sink, SinkError};
use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, Value};
use std::time::Duration;
use tidegate_gate::Name;

/// Adds each event to a stream. Redis cannot tell an event that is sent again: an attempt whose answer got lost adds
/// its events twice.
#[derive(Debug)]
pub struct RedisSink {
    target: RedisTarget,
    stream: String,
    field: String,
    max_len: Option<u64>,
    timeout: Duration,
    connection: Option<MultiplexedConnection>,
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
            connection: None,
        })
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
        let answer = ANSWER.min(self.timeout);
        self.connection = Some(self.target.connect(answer).await.map_err(SinkError::retry)?);
        Ok(())
    }

    async fn write(&mut self, events: &[Event]) -> Result<(), SinkError> {
        // Taken out, so that an attempt that is dropped half way leaves no connection with answers still to come.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let answer = ANSWER.min(self.timeout);
                self.target.connect(answer).await.map_err(SinkError::retry)?
            }
        };
        let mut adds = redis::pipe();
        for event in events {
            let add = adds.cmd("XADD").arg(&self.stream);
            if let Some(max_len) = self.max_len {
                add.arg("MAXLEN").arg("~").arg(max_len);
            }
            add.arg("*").arg(&self.field).arg(&event.payload[..]);
        }
        adds.ignore_errors();
        let failed = |taken, error: &RedisError| SinkError::Retry {
            taken,
            after: None,
            why: told(error).into(),
        };
        let added: Vec<RedisResult<Value>> = adds
            .query_async(&mut connection)
            .await
            .map_err(|error| failed(0, &error))?;
        self.connection = Some(connection);
        match added
            .iter()
            .enumerate()
            .find_map(|(n, one)| Some((n, one.as_ref().err()?)))
        {
            None => Ok(()),
            Some((taken, error)) => Err(failed(taken, error)),
        }
    }
}
