//! Files that are not what was asked for, told by how they begin, and the way out.

use crate::error::Error;

/// How a file begins, what it is then, and the way out.
const KINDS: [(&[u8], &str, &str); 20] = [
    (b"GGUF", "a GGUF file of llama.cpp", "give the safetensors or the checkpoint that it was made from"),
    (b"ggml", "a ggml file of llama.cpp", "give the safetensors or the checkpoint that it was made from"),
    (b"tjgg", "a ggml file of llama.cpp", "give the safetensors or the checkpoint that it was made from"),
    (b"\x1f\x8b", "a gzip stream", "decompress it first: gunzip"),
    (b"\x28\xb5\x2f\xfd", "a zstd stream", "decompress it first: unzstd"),
    (b"\xfd7zXZ\0", "an xz stream", "decompress it first: unxz"),
    (b"BZh", "a bzip2 stream", "decompress it first: bunzip2"),
    (b"x\x01", "a zlib stream", "decompress it first, with Python's zlib"),
    (b"x\x9c", "a zlib stream", "decompress it first, with Python's zlib"),
    (b"x\xda", "a zlib stream", "decompress it first, with Python's zlib"),
    (b"\x89HDF", "an HDF5 file of Keras or TensorFlow", "give the model as safetensors or as a PyTorch checkpoint"),
    (b"\x93NUMPY", "an array of NumPy", "give the model as safetensors: safetensors.numpy.save_file"),
    (b"PK\x05\x06", "an empty zip archive", "give the weights file itself"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"%PDF", "a PDF document", "give the weights file itself"),
    (b"\x80\x02", "a bare pickle", "save the tensors with torch.save(model.state_dict(), \"model.pt\")"),
    (b"\x80\x03", "a bare pickle", "save the tensors with torch.save(model.state_dict(), \"model.pt\")"),
    (b"\x80\x04", "a bare pickle", "save the tensors with torch.save(model.state_dict(), \"model.pt\")"),
    (b"\x80\x05", "a bare pickle", "save the tensors with torch.save(model.state_dict(), \"model.pt\")"),
    (b"\x7fELF", "a program", "give the weights file itself"),
];
/// Where a tar archive has its mark.
const TAR: (usize, &[u8]) = (257, b"ustar");
/// What a page of the web begins with, in small letters.
const HTML: [&str; 3] = ["<!doctype", "<html", "<?xml"];
/// What a pointer of Git LFS begins with.
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";

/// What a file is that cannot be a weights file or a JSON text; `None`: nothing speaks against it.
pub fn named(bytes: &[u8]) -> Option<Error> {
    // A safetensors header may be as long as any first bytes claim; then its brace stands in ninth place.
    if bytes.get(8) == Some(&b'{') {
        return None;
    }
    if bytes.starts_with(LFS) {
        let size = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]);
        let size = size.lines().find_map(|line| line.strip_prefix("size ")?.trim().parse::<u64>().ok());
        let size = size.map_or_else(String::new, |size| format!(" of {size} bytes"));
        return Some(
            Error::input(format!("a pointer of Git LFS, in place of the file{size} itself"))
                .hint("fetch the file: git lfs pull"),
        );
    }
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).to_lowercase();
    let start = start.trim_start_matches('\u{feff}').trim_start();
    if HTML.iter().any(|mark| start.starts_with(mark)) {
        return Some(
            Error::input("a page of the web, not the file that it speaks of")
                .hint("download the file itself; the page may ask to log in, or to accept a licence"),
        );
    }
    if bytes.get(TAR.0..).is_some_and(|rest| rest.starts_with(TAR.1)) {
        return Some(Error::input("a tar archive").hint(
            "unpack it first; if PyTorch before 0.4 wrote it, save it again: \
             torch.save(torch.load(\"old.pt\", map_location=\"cpu\"), \"new.pt\")",
        ));
    }
    let (_, what, way_out) = KINDS.iter().find(|(mark, ..)| bytes.starts_with(mark))?;
    Some(Error::input(*what).hint(*way_out))
}
