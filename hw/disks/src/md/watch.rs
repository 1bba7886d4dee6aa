use std::fs::File;
use std::io::{Read, Seek};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Word of arrays that started, stopped, lost a disk or ended a sync: the kernel marks
/// /proc/mdstat, which udev does not hear of.
pub struct ArrayWatch(AsyncFd<File>);

impl ArrayWatch {
    /// Begins to listen; an error when the kernel's md is not loaded.
    pub fn new() -> std::io::Result<ArrayWatch> {
        let mut file = File::open("/proc/mdstat")?;
        consume(&mut file)?;
        crate::sys::register(file, Interest::PRIORITY).map(ArrayWatch)
    }

    /// Waits for a change. Cancel-safe.
    pub async fn changed(&mut self) -> std::io::Result<()> {
        let mut ready = self.0.ready_mut(Interest::PRIORITY).await?;
        // reading takes the mark away
        consume(ready.get_inner_mut())?;
        ready.clear_ready();
        Ok(())
    }
}

fn consume(file: &mut File) -> std::io::Result<()> {
    file.rewind()?;
    let mut text = String::new();
    file.read_to_string(&mut text).map(|_| ())
}
