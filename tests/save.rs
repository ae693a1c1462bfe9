//! Files appear whole or not at all.

use std::fs;

use tiepack::save::{check, save};

#[test]
fn saving_replaces_whole_files_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.tiepack");
    check(&path).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a check leaves no trace");
    save(&path, b"old").unwrap();
    check(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    save(&path, b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn saving_follows_links_and_leaves_an_ordinary_file() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("a"), folder.path().join("b"));
    save(&path, b"old").unwrap();
    symlink(&path, &link).unwrap();
    save(&link, b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    // What the umask leaves of an ordinary file: as for a file made in the ordinary way.
    let ordinary = folder.path().join("c");
    fs::write(&ordinary, b"").unwrap();
    let mode = |p| fs::metadata(p).unwrap().permissions().mode();
    assert_eq!(mode(&path), mode(&ordinary));
}

/// Not a test of its own: what the next test kills.
#[test]
fn child_saving_a_megabyte() {
    if let Some(path) = std::env::var_os("TIEPACK_TEST_SAVE") {
        let _ = save(path.as_ref(), &[1; 1 << 20]);
    }
}

#[cfg(unix)]
#[test]
fn a_kill_in_the_middle_leaves_the_old_file() {
    use std::os::unix::process::ExitStatusExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.tiepack");
    save(&path, b"old").unwrap();
    // The kernel kills a process that writes a file beyond its limit: here in the middle of the megabyte.
    let status = std::process::Command::new("sh")
        .args(["-c", r#"ulimit -c 0; ulimit -f 64; exec "$0" --exact child_saving_a_megabyte"#])
        .arg(std::env::current_exe().unwrap())
        .env("TIEPACK_TEST_SAVE", &path)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.signal().is_some(), "{status}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn places_that_cannot_be_written_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = save(&folder.path().join("none/model.tiepack"), b"").unwrap_err();
    assert!(error.message.contains("does not exist") && error.hint.is_some(), "{error}");
    assert!(save(folder.path(), b"").unwrap_err().message.contains("is a folder"));
    #[cfg(unix)]
    assert!(save("/dev/null".as_ref(), b"").unwrap_err().message.contains("not an ordinary file"));
}
