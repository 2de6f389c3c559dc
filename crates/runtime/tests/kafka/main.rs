//! The Kafka source and sink against brokers in this process: librdkafka's own mock, which keeps consumer groups.
#![allow(clippy::unwrap_used)] // a test stops at the first surprise
mod failing;
mod moving;
mod pausing;
mod site;
mod writing;
