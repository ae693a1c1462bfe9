//! `tiepack bundle`: a script that brings an artifact and its decoder along.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tiepack_format::container::{CHECK_BYTES, ROOT_BYTES};

use super::args::BundleArgs;
use super::figures::{Side, table};
use super::output::OutputKind;
use super::{files, guard};
use crate::artifact::layout::{Header, StreamEntry, codec};
use crate::artifact::open::decode;
use crate::artifact::read::parse;
use crate::artifact::write;
use crate::bundle::{BLOB_NAME, Container, Contents, Decoder, Files, Ledger, REQUIREMENT, Script, Source, bundle};
use crate::compile::header;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::nets::Form;
use crate::progress::Progress;
use crate::save;
use crate::text::thousands;
use crate::verify::verdict::Budget;

/// By how many bytes a forecast of a bundle's size may be wrong: packing again would cost far more.
const SLACK: u64 = 24;

/// What was written.
#[derive(Debug, Serialize)]
pub struct Bundled {
    pub files: Vec<Written>,
    pub decoder: &'static str,
    pub form: Container,
    /// The line in which the script looks at its own file, for which the bundle is text.
    pub looks_at_itself: Option<usize>,
    /// Where its bytes go.
    pub bytes: Ledger,
    /// `None`: no cap was named.
    pub budget: Option<Budget>,
}

#[derive(Debug, Serialize)]
pub struct Written {
    pub path: PathBuf,
    pub bytes: u64,
}

/// What to make a bundle of, once there is an artifact.
pub struct Bundling {
    script: PathBuf,
    source: Source,
    output: PathBuf,
    decoder: Decoder,
    form: Container,
    /// Why the form is text, if nobody named one.
    looks_at_itself: Option<usize>,
    nameless: bool,
}

/// A bundle that is not written yet.
pub struct Ready<'a> {
    bundling: &'a Bundling,
    files: Files,
    ledger: Ledger,
}

/// # Errors
/// Verification when the artifact is damaged; Input when a file cannot be read or written; Cap when the bundle does not fit.
/// Only a bundle that fits is written.
pub fn run(args: &BundleArgs, progress: &dyn Progress) -> Result<Bundled> {
    let includes = files::includes(&args.include)?;
    let form = if args.apart { Some(Container::Apart) } else { args.form };
    let bundling = Bundling::new(&args.script, &args.output, (args.decoder, form, args.nameless), &args.include)?;
    let path = files::only_artifact(&args.artifact)?;
    let inputs: Vec<PathBuf> = [&path].into_iter().chain(&args.include).cloned().collect();
    bundling.guard(&inputs, args.writing.force)?;
    let artifact = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
    progress.begin("decode the artifact", 0);
    decode(&artifact).map_err(|e| e.at(path.display()))?;
    progress.end();
    let ready = bundling.make(&artifact)?;
    let budget = args.cap.map(|cap| Budget::new(ready.bytes(), includes, cap)).transpose()?;
    Ok(Bundled { budget, ..ready.write()? })
}

impl Bundling {
    fn new(
        script: &Path,
        output: &Path,
        (decoder, form, nameless): (Decoder, Option<Container>, bool),
        includes: &[PathBuf],
    ) -> Result<Bundling> {
        let bytes = std::fs::read(script).map_err(|e| Error::io("read", script, e))?;
        let source = Source::new(bytes, &script.display().to_string())?;
        neighbours(script, &source, includes)?;
        let looks_at_itself = source.looks_at_itself().filter(|_| form.is_none());
        let form = form.unwrap_or(if looks_at_itself.is_some() { Container::Text } else { Container::Zip });
        let (script, output) = (script.to_path_buf(), output.to_path_buf());
        Ok(Bundling { script, source, output, decoder, form, looks_at_itself, nameless })
    }

    /// What `pack --bundle` makes: everything in one script beside the artifact.
    ///
    /// # Errors
    /// Input, when the script cannot be read, or imports what the bundle will not have.
    pub fn of_pack(script: &Path, artifact: &Path, includes: &[PathBuf]) -> Result<Bundling> {
        Bundling::new(script, &artifact.with_extension("py"), (Decoder::Embed, None, false), includes)
    }

    /// Finds out that what is to be written can be, is none of the script and the `inputs`, and replaces nothing that is not
    /// tiepack's.
    ///
    /// # Errors
    /// Input, naming the file.
    fn guard(&self, inputs: &[PathBuf], force: bool) -> Result<()> {
        let mut outputs = vec![OutputKind::Bundle.at(&self.output)];
        if self.form == Container::Apart {
            outputs.push(OutputKind::Weights(self.output.clone()).at(self.output.with_file_name(BLOB_NAME)));
        }
        // A list that is there may name more than tiepack, and is not ours to replace.
        let list = self.requirements();
        if self.decoder == Decoder::Import && !self.is_required() {
            if list.exists() && !force {
                return Err(Error::input(format!("{} is there and does not name {REQUIREMENT}", list.display()))
                    .hint("add that line to it, write the bundle to another folder, or replace it with --force"));
            }
            outputs.push(OutputKind::Anonymous.at(list));
        }
        guard::outputs(&outputs, &[inputs, std::slice::from_ref(&self.script)].concat(), force)
    }

    /// Refuses what the small decoder would lose.
    fn check(&self, header: &Header) -> Result<()> {
        match header.extra.kept.first() {
            Some(kept) if self.decoder == Decoder::Embed => {
                let (count, name) = (header.extra.kept.len(), &kept.name);
                Err(Error::input(format!(
                    "tensors that are no weights, which the small decoder does not give back: {count}, {name} first"
                ))
                .hint("bundle the artifact with --decoder import"))
            }
            _ => Ok(()),
        }
    }

    fn requirements(&self) -> PathBuf {
        self.output.with_file_name("requirements.txt")
    }

    /// Whether the list that is there names tiepack.
    fn is_required(&self) -> bool {
        let text = std::fs::read_to_string(self.requirements()).unwrap_or_default();
        text.lines().any(|line| line.trim() == REQUIREMENT)
    }

    fn script(&self) -> Script<'_> {
        let name = self.script.file_name().and_then(|name| name.to_str()).unwrap_or("script.py");
        Script { name, bytes: &self.source.bytes, decoder: self.decoder, form: self.form }
    }

    /// By how much a bundle of `cap` bytes will be larger than its artifact, to some [`SLACK`] bytes: the streams are guessed.
    ///
    /// # Errors
    /// As [`bundle`].
    pub fn overhead(&self, model: &Model, cap: u64) -> Result<u64> {
        let all: usize = (0..model.stored.len()).map(|i| model.stored[i].data.len()).sum();
        let (mut entries, mut vectors) = (Vec::new(), Vec::new());
        for (i, stored) in model.stored.iter().enumerate() {
            match model.spec(i).form {
                Form::Vector => vectors.push(i as u32),
                _ => entries.push(StreamEntry {
                    codec: codec::MATRIX,
                    tensors: vec![i as u32],
                    dtypes: vec![stored.dtype],
                    needs: vec![],
                    len: (u128::from(cap) * stored.data.len() as u128 / all.max(1) as u128) as u64,
                }),
            }
        }
        if !vectors.is_empty() {
            let dtypes = vectors.iter().map(|t| model.stored[*t as usize].dtype).collect();
            entries.push(StreamEntry { codec: codec::VECTORS, tensors: vectors, dtypes, needs: vec![], len: 9_999 });
        }
        let header = header(model, entries);
        self.check(&header)?;
        let streams: u64 = header.streams.iter().map(|s| s.len).sum();
        let container = write::size_of(&header)? - streams;
        let (_, ledger) = bundle(&self.script(), &Contents::new(&header, self.nameless), &[])?;
        let fixed = ledger.total + SLACK;
        let weights = self.holds(cap.saturating_sub(fixed));
        Ok(cap.saturating_sub(weights).max(fixed).saturating_sub(container))
    }

    /// How many bytes of weights go into so many of a bundle.
    pub fn holds(&self, bytes: u64) -> u64 {
        match self.form {
            Container::Text => bytes / 7 * 6,
            Container::Zip | Container::Apart => bytes,
        }
    }

    /// A bundle of these bytes, which are a sound artifact.
    ///
    /// # Errors
    /// As [`bundle`].
    pub fn make(&self, artifact: &[u8]) -> Result<Ready<'_>> {
        let parsed = parse(artifact)?;
        self.check(&parsed.header)?;
        let contents = Contents::new(&parsed.header, self.nameless);
        let streams = parsed.header_range.end..artifact.len() - ROOT_BYTES - CHECK_BYTES;
        let weights = match self.decoder {
            Decoder::Embed => &artifact[streams],
            Decoder::Import => artifact,
        };
        let (files, ledger) = bundle(&self.script(), &contents, weights)?;
        Ok(Ready { bundling: self, files, ledger })
    }
}

impl Ready<'_> {
    pub fn bytes(&self) -> u64 {
        self.ledger.total
    }

    /// # Errors
    /// Input, when a file cannot be written.
    pub fn write(self) -> Result<Bundled> {
        let Ready { bundling, files, ledger } = self;
        let Bundling { output, decoder, form, looks_at_itself, .. } = bundling;
        let decoder = match decoder {
            Decoder::Embed => "embed",
            Decoder::Import => "import",
        };
        let mut written = vec![(output.clone(), files.script)];
        written.extend(files.blob.map(|blob| (output.with_file_name(BLOB_NAME), blob)));
        // One that is there names tiepack.
        let requirements = files.requirements.filter(|_| !bundling.is_required());
        written.extend(requirements.map(|text| (bundling.requirements(), text.into_bytes())));
        // The script last: it is only there when all it needs is.
        for (path, bytes) in written.iter().rev() {
            save::save(path, bytes)?;
        }
        let files = written.into_iter().map(|(path, bytes)| Written { path, bytes: bytes.len() as u64 }).collect();
        Ok(Bundled { files, decoder, form: *form, looks_at_itself: *looks_at_itself, bytes: ledger, budget: None })
    }
}

impl Bundled {
    /// Bytes of the bundle beside those of the artifact it was made of.
    pub fn beside(&self, artifact: u64) -> u64 {
        self.bytes.total.saturating_sub(artifact)
    }

    /// As a table.
    pub fn text(&self) -> String {
        let Ledger { weights, script, decoder, text, total } = self.bytes;
        let decoding = if self.decoder == "embed" { "decoder" } else { "loader" };
        let mut rows = vec![("weights", weights), ("script, compressed", script), (decoding, decoder)];
        rows.extend((text > 0).then_some(("to be text", text)));
        rows.push(("total", total));
        let rows: Vec<Vec<String>> = rows.iter().map(|(name, n)| vec![(*name).into(), thousands(*n)]).collect();
        let mut out = table(&[Side::Left, Side::Right], &rows);
        for Written { path, bytes } in &self.files {
            let _ = writeln!(out, "wrote {}, {} bytes", path.display(), thousands(*bytes));
        }
        if let Some(line) = self.looks_at_itself {
            let _ = writeln!(
                out,
                "text, because line {line} of the script looks at its own file; bundle --form zip and --apart take less"
            );
        }
        if let Some(Budget { total, cap, free, .. }) = self.budget {
            let [total, cap, free] = [total, cap, free].map(thousands);
            let _ = writeln!(out, "{total} of {cap} bytes, {free} free");
        }
        out
    }
}

/// Refuses a script that imports what a bundle does not bring along: files beside it, unless they are among `includes`.
fn neighbours(script: &Path, source: &Source, includes: &[PathBuf]) -> Result<()> {
    let folder = script.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let includes: Vec<PathBuf> = includes.iter().filter_map(|path| path.canonicalize().ok()).collect();
    for import in source.imports() {
        let at = format!("{}, line {}", script.display(), import.line);
        if import.module.starts_with('.') {
            // Elsewhere it may be caught or never be run; a script that is run by itself has no package.
            match import.at_margin {
                true => {
                    return Err(Error::input(format!(
                        "{at}: `{}` is relative, and a script has no package",
                        import.module
                    ))
                    .hint("Python refuses it as well when the script is run: import the module by its name"));
                }
                false => continue,
            }
        }
        let mut parts = import.module.split('.');
        let top = parts.next().unwrap_or_default();
        let inside: Vec<&str> = parts.take(1).chain(import.names.iter().map(String::as_str)).collect();
        let Some(path) = beside(folder, top, &inside) else { continue };
        let found = path.canonicalize().unwrap_or_else(|_| path.clone());
        if !includes.iter().any(|include| include.starts_with(&found)) {
            return Err(Error::input(format!(
                "{at} imports {top}, which is {}: a bundle brings one script",
                path.display()
            ))
            .hint(
                "put what it needs into the script; or name the file with --include, if it will lie beside the bundle",
            ));
        }
    }
    Ok(())
}

/// The module `top` in `folder`, as Python would find it: a file, or a folder that is a package or has one of `inside`.
fn beside(folder: &Path, top: &str, inside: &[&str]) -> Option<PathBuf> {
    let module = |folder: &Path, name: &str| {
        let mut found: Vec<PathBuf> = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
        found.sort();
        found.into_iter().find(|path| {
            let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let is_code = [".py", ".pyc", ".so", ".pyd"].iter().any(|end| file.ends_with(end));
            is_code && file.split('.').next() == Some(name) && path.is_file()
        })
    };
    let package = folder.join(top);
    let is_package = package.is_dir()
        && (module(&package, "__init__").is_some() || inside.iter().any(|name| module(&package, name).is_some()));
    if is_package { Some(package) } else { module(folder, top) }
}
