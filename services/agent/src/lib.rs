//! Runs on protected servers: pair, back up, list, restore.
//!
//! The program keeps an identity in its state directory ([`identity`]), dials the appliance
//! ([`connect`]), says what each session is for and proves who it is ([`session`]), and then backs
//! up ([`backup`]), restores and lists ([`restore`]), or waits for orders ([`control`]). Each of
//! these takes any stream, so that tests run it over socket pairs.

pub mod backup;
pub mod connect;
pub mod control;
mod error;
pub mod identity;
pub mod pair;
pub mod restore;
pub mod session;

pub use error::{Error, Result};

/// A stream to the appliance.
pub trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static {}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static> Stream for S {}
