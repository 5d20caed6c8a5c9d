//! Listening on a Unix socket, and the file that it is known by.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixSocket, UnixStream};

use super::{Accept, BACKLOG, cannot_listen};

/// Who may connect: the owner and the group of the file, a proxy's for one.
const MODE: u32 = 0o660;
/// Nobody else has anything to lock.
const LOCK_MODE: u32 = 0o600;
/// How often a starter looks whether another one, at the same path, is done.
const LOCK_TRIES: u32 = 100;
/// The pause before each further look.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A Unix socket that is listened on. Its file goes with it.
pub struct UnixListener {
    listener: tokio::net::UnixListener,
    _file: SocketFile,
}

impl UnixListener {
    /// Listens on a path. What a process that is no more has left there is replaced.
    ///
    /// # Errors
    /// Naming the path, when somebody listens there already, when there is another kind of file, or when the
    /// system will not have it.
    pub async fn bind(path: &Path) -> io::Result<Self> {
        let place = format!("unix://{}", path.display());
        let named = |error: io::Error| cannot_listen(&place, error.kind(), &error);
        // Between the look whether somebody listens and the listening nobody else may do the same.
        let _lock = Lock::wait(path).await.map_err(named)?;
        make_way(path).await.map_err(named)?;
        let socket = UnixSocket::new_stream().and_then(|socket| socket.bind(path).map(|()| socket));
        let socket = socket.map_err(named)?;
        let file = SocketFile::new(path).map_err(named)?;
        // Nobody can connect before somebody listens, so nobody finds it open wider.
        fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(named)?;
        let listener = socket.listen(BACKLOG).map_err(named)?;
        Ok(Self { listener, _file: file })
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;
    type Peer = ();

    async fn accept(&self) -> io::Result<(UnixStream, ())> {
        self.listener.accept().await.map(|(stream, _)| (stream, ()))
    }
}

/// Removes the file of a socket on which nobody listens.
async fn make_way(path: &Path) -> io::Result<()> {
    let there = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        there => there?,
    };
    if !there.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    match UnixStream::connect(path).await {
        // Also when so many wait there that there is no room for one more.
        Ok(_) => Err(ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The file of a socket, removed when it is dropped.
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        let identity = identity(&fs::symlink_metadata(path)?);
        Ok(Self { path: path.to_owned(), identity })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Whoever has the lock is about to listen here, and replaces what is left.
        let Ok(Some(_lock)) = Lock::take(&self.path) else { return };
        // Another broker may have taken the place of one whose file was removed under it.
        if fs::symlink_metadata(&self.path).is_ok_and(|there| identity(&there) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The right to make or remove the file of a socket: a lock on a file beside it, which goes with it.
struct Lock {
    path: PathBuf,
    /// Closing it gives the lock back.
    _file: File,
}

impl Lock {
    /// Waits for it.
    async fn wait(socket: &Path) -> io::Result<Self> {
        for _ in 1..LOCK_TRIES {
            if let Some(lock) = Self::take(socket)? {
                return Ok(lock);
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
        Self::take(socket)?.ok_or_else(|| ErrorKind::AddrInUse.into())
    }

    /// `None` when somebody else has it.
    fn take(socket: &Path) -> io::Result<Option<Self>> {
        let mut path = OsString::from(socket);
        path.push(".lock");
        let path = PathBuf::from(path);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(LOCK_MODE).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Who had it before may have removed the file: the next to come would lock another.
        let is_there = fs::symlink_metadata(&path)
            .is_ok_and(|there| file.metadata().is_ok_and(|own| identity(&own) == identity(&there)));
        Ok(is_there.then_some(Self { path, _file: file }))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}
