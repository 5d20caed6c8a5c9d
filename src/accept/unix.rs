//! Listening on a Unix socket, and the file that it is known by.

use std::fs::{self, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixSocket, UnixStream};

use super::{Accept, BACKLOG, cannot_listen};

/// Who may connect: the owner and the group of the file, a proxy's for one.
const MODE: u32 = 0o660;

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
        // Another broker may have taken the place of one whose file was removed under it.
        if fs::symlink_metadata(&self.path).is_ok_and(|there| identity(&there) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}
