//! A job on the bus.
#![allow(missing_docs)] // the XML documents the members

use super::{End, Shared, clone_fields};
use contract::{Error, Fields};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;
use zbus::object_server::SignalEmitter;

pub(super) struct JobObject(pub(super) Arc<Shared>);

#[zbus::interface(name = "org.strongroom.Job1")]
impl JobObject {
    #[zbus(property)]
    fn kind(&self) -> String {
        self.0.kind.to_owned()
    }
    #[zbus(property)]
    fn state(&self) -> String {
        match &*self.0.end.lock().expect("no panic holds it") {
            End::Running => "running",
            End::Succeeded(_) => "succeeded",
            End::Failed(Error::Cancelled(_)) => "cancelled",
            End::Failed(_) => "failed",
        }
        .to_owned()
    }
    #[zbus(property)]
    fn detail(&self) -> String {
        match &*self.0.end.lock().expect("no panic holds it") {
            End::Failed(error) => error.text(),
            _ => self
                .0
                .progress
                .0
                .detail
                .lock()
                .expect("no panic holds it")
                .clone(),
        }
    }
    #[zbus(property)]
    fn progress(&self) -> f64 {
        match (self.bytes_done(), self.bytes_total()) {
            (_, 0) => -1.0,
            (done, total) => (done as f64 / total as f64).min(1.0),
        }
    }
    #[zbus(property)]
    fn bytes_done(&self) -> u64 {
        self.0.progress.0.done.load(Ordering::Relaxed)
    }
    #[zbus(property)]
    fn bytes_total(&self) -> u64 {
        self.0.progress.0.total.load(Ordering::Relaxed)
    }
    #[zbus(property)]
    fn rate(&self) -> u64 {
        self.0.rate()
    }
    #[zbus(property)]
    fn eta(&self) -> u64 {
        match (self.0.rate(), self.bytes_total()) {
            (0, _) | (_, 0) => u64::MAX,
            (rate, total) => total.saturating_sub(self.bytes_done()) / rate,
        }
    }
    #[zbus(property)]
    fn started(&self) -> i64 {
        self.0
            .started
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |d| d.as_secs() as i64)
    }
    #[zbus(property)]
    fn result(&self) -> Fields {
        match &*self.0.end.lock().expect("no panic holds it") {
            End::Running => Fields::new(),
            End::Succeeded(fields) => clone_fields(fields),
            End::Failed(error) => Fields::from([(
                "error".to_owned(),
                contract::field(zbus::DBusError::name(error).as_str()),
            )]),
        }
    }
    fn cancel(&self) {
        self.0.cancel.cancel();
    }
    #[zbus(signal)]
    pub(super) async fn completed(
        emitter: &SignalEmitter<'_>,
        success: bool,
        error: &str,
        message: &str,
        result: Fields,
    ) -> zbus::Result<()>;
}
