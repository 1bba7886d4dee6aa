//! A storage of which each call is told before it is done, for tests that count calls, let one fail, or
//! have something else happen first.

use super::{File, Guard, Storage};
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

/// What is about to be done; to a file that is open, under the name it was opened by.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The name of the method; `close` when the last user of an open file is gone.
    pub method: &'static str,
    /// Of what; of a rename the new name.
    pub name: &'a str,
    /// Where in the file, and how many bytes.
    pub bytes: (u64, usize),
}

/// See [`Hooked::parking`].
pub struct Parking {
    /// Tells that the call waits.
    pub reached: Receiver<()>,
    /// Lets it go on.
    pub go_on: Sender<()>,
}

type Hook = Arc<dyn Fn(Call<'_>) -> io::Result<()> + Send + Sync>;

/// The storage; clones share its hook.
#[derive(Clone)]
pub struct Hooked {
    storage: Arc<dyn Storage>,
    hook: Hook,
}

struct Open {
    file: Arc<dyn File>,
    name: String,
    hook: Hook,
}

impl Hooked {
    /// A call for which `hook` answers an error fails with that and is not done.
    pub fn new(
        storage: impl Storage,
        hook: impl Fn(Call<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            storage: Arc::new(storage),
            hook: Arc::new(hook),
        }
    }

    /// The first call that fits waits until it may go on: for races of which a test decides who is first.
    pub fn parking(
        storage: impl Storage,
        fits: impl Fn(Call<'_>) -> bool + Send + Sync + 'static,
    ) -> (Self, Parking) {
        let ((tell, reached), (go_on, wait)) = (channel(), channel());
        let first = Mutex::new(Some((tell, wait)));
        let hook = move |call: Call<'_>| {
            let take = || first.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((tell, wait)) = fits(call).then(take).flatten() {
                // a test that failed meanwhile waits for neither
                let _ = tell.send(());
                let _ = wait.recv();
            }
            Ok(())
        };
        (Self::new(storage, hook), Parking { reached, go_on })
    }

    fn tell(&self, method: &'static str, name: &str) -> io::Result<()> {
        let bytes = (0, 0);
        (self.hook)(Call {
            method,
            name,
            bytes,
        })
    }

    fn opened(&self, name: &str, file: Arc<dyn File>) -> Arc<dyn File> {
        let (name, hook) = (name.to_owned(), self.hook.clone());
        Arc::new(Open { file, name, hook })
    }
}

impl Open {
    fn tell(&self, method: &'static str, at: u64, bytes: usize) -> io::Result<()> {
        (self.hook)(Call {
            method,
            name: &self.name,
            bytes: (at, bytes),
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // closing does not fail
        let _ = self.tell("close", 0, 0);
    }
}

impl File for Open {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.tell("read_at", offset, buffer.len())?;
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.tell("write_at", offset, bytes.len())?;
        self.file.write_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.tell("len", 0, 0)?;
        self.file.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.tell("set_len", length, 0)?;
        self.file.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.tell("sync", 0, 0)?;
        self.file.sync()
    }
}

impl Storage for Hooked {
    fn place(&self) -> String {
        self.storage.place()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.tell("create", name)?;
        let file = self.storage.create(name)?;
        Ok(self.opened(name, file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.tell("open", name)?;
        let file = self.storage.open(name)?;
        Ok(self.opened(name, file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.tell("rename", to)?;
        self.storage.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.tell("remove", name)?;
        self.storage.remove(name)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.tell("list", dir)?;
        self.storage.list(dir)
    }

    fn make_dir(&self, dir: &str) -> io::Result<()> {
        self.tell("make_dir", dir)?;
        self.storage.make_dir(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.tell("sync_dir", dir)?;
        self.storage.sync_dir(dir)
    }

    fn keeps(&self) -> bool {
        self.storage.keeps()
    }

    fn lock(&self) -> io::Result<Box<dyn Guard>> {
        self.tell("lock", "lock")?;
        self.storage.lock()
    }
}
