//! The system calls alone, with names made before the clock runs: what a file per entry costs at least.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::store::{Place, Result, Seen, Store};

/// `EXCHANGE`: an overwrite exchanges the new file with the old and unlinks that, else it renames over it.
pub(crate) struct Bare<const EXCHANGE: bool> {
    root: OwnedFd,
    drafts: Vec<String>,
    buffer: Vec<u8>,
    /// The oldest first; kept only where there's a limit.
    held: VecDeque<Vec<u8>>,
    limit: Option<usize>,
}

const SHARDS: &str = "shards/";

impl<const EXCHANGE: bool> Bare<EXCHANGE> {
    /// Creates and writes a draft in the shard of this path, and returns its name.
    fn write(&self, path: &[u8], value: &[u8]) -> Result<&str> {
        let shard = std::str::from_utf8(&path[SHARDS.len()..SHARDS.len() + 2])?;
        let draft = self.drafts[usize::from_str_radix(shard, 16)?].as_str();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = fs::openat(&self.root, draft, flags, Mode::from_raw_mode(0o600))?;
        match rustix::io::write(&file, value)? {
            n if n == value.len() => Ok(draft),
            n => Err(format!("only {n} bytes were written").into()),
        }
    }
}

impl<const EXCHANGE: bool> Store for Bare<EXCHANGE> {
    fn open(place: &Place) -> Result<Self> {
        for shard in 0..=u8::MAX {
            std::fs::create_dir_all(place.dir.join(format!("{SHARDS}{shard:02x}")))?;
        }
        let root = fs::open(&place.dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let pid = std::process::id();
        Ok(Bare {
            root,
            drafts: (0..=u8::MAX).map(|shard| format!("{SHARDS}{shard:02x}/.tmp-{pid:045x}")).collect(),
            buffer: vec![0; place.size + 1],
            held: VecDeque::new(),
            limit: place.limit.map(usize::try_from).transpose()?.map(|limit| limit / place.processes),
        })
    }

    fn key(id: u32) -> String {
        let shard = id.wrapping_mul(0x9e37_79b9) >> 24;
        format!("{SHARDS}{shard:02x}/{id:030x}")
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Seen>> {
        let file = match fs::openat(&self.root, key, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            file => file?,
        };
        let n = rustix::io::read(&file, &mut *self.buffer)?;
        Ok(Some(Seen::of(&self.buffer[..n])))
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let draft = self.write(key, value)?;
        fs::renameat(&self.root, draft, &self.root, key)?;
        if let Some(limit) = self.limit {
            self.held.push_back(key.to_vec());
            if self.held.len() > limit
                && let Some(oldest) = self.held.pop_front()
            {
                fs::unlinkat(&self.root, &*oldest, AtFlags::empty())?;
            }
        }
        Ok(())
    }

    fn over(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let draft = self.write(key, value)?;
        if EXCHANGE {
            fs::renameat_with(&self.root, draft, &self.root, key, RenameFlags::EXCHANGE)?;
            fs::unlinkat(&self.root, draft, AtFlags::empty())?;
        } else {
            fs::renameat(&self.root, draft, &self.root, key)?;
        }
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        Ok(fs::unlinkat(&self.root, key, AtFlags::empty())?)
    }
}
