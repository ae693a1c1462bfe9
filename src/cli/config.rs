//! `tiepack config`: the configuration of a model, its own or one recognised from its tensors.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use super::args::ConfigArgs;
use super::figures::count;
use super::output::OutputKind;
use super::{files, guard};
use crate::artifact::open::open;
use crate::error::{Error, Result};
use crate::ingest::{Config, Source, TieMap, Weights, folder, weights};
use crate::model::{self, Model};
use crate::nets::{self, Net, guess};
use crate::save;
use crate::verify::verdict::Note;

/// A configuration and what it means.
#[derive(Debug, Serialize)]
pub struct Recognised {
    /// The file that it was read from; `None`: it was recognised from names and shapes of tensors.
    pub source: Option<PathBuf>,
    pub config: Map<String, Value>,
    /// Keys that no shape tells, filled with the architecture's usual values.
    pub guesses: Vec<String>,
    /// What the configuration means; `None` when the architecture refuses it or the tensors do not fit it.
    pub network: Option<Network>,
    /// Why there is no network.
    pub fault: Option<String>,
    /// Where the configuration was written.
    pub output: Option<PathBuf>,
    pub notes: Vec<Note>,
}

/// What a configuration means.
#[derive(Debug, Serialize)]
pub struct Network {
    pub layers: usize,
    /// Token ids.
    pub vocab: usize,
    /// Tokens of a row.
    pub context: usize,
    /// Tensors of the architecture.
    pub tensors: usize,
    /// Weights of matrices and embeddings that are stored, tied ones once.
    pub stored: usize,
}

/// # Errors
/// A file is unusable, or, without a `config.json`, no architecture has tensors of these names; `--output` cannot
/// be written.
pub fn run(args: &ConfigArgs) -> Result<Recognised> {
    if let Some(path) = files::artifact(&args.model)? {
        return of_artifact(args, path);
    }
    let overrides = args.files.overrides(None, (&[], None));
    let (folder, path) = folder::weights(&args.model)?;
    let source = folder::config(&folder, &overrides)?;
    let ties = folder::ties(&folder, &overrides)?;
    let output = args.output.iter().map(|path| OutputKind::Anonymous.at(path)).collect::<Vec<_>>();
    let inputs: Vec<PathBuf> = weights::files(&path).into_iter().chain(source.clone()).chain(ties.clone()).collect();
    guard::outputs(&output, &inputs, args.writing.force)?;
    let ties = ties.map_or(Ok(None), |path| TieMap::read(&path))?;
    let own = source.as_deref().map(Config::read).transpose()?;
    let Weights { tensors, beside, remarks, sizes } = weights::read(&path)?;
    let (config, guesses) = match own {
        Some(config) => (config, Vec::new()),
        None => {
            let shapes = files::shapes(&tensors);
            let guess = files::stated(&remarks, &shapes).or_else(|| guess::recognise(&shapes)).ok_or_else(|| {
                if let Some(name) = guess::foreign(&shapes) {
                    return files::foreign(&path, name);
                }
                let some: Vec<&str> = tensors.keys().take(3).map(String::as_str).collect();
                Error::input(format!(
                    "{}: no known architecture has these tensors: {}",
                    path.display(),
                    some.join(", ")
                ))
                .hint(format!(
                    "looked for {}; formats/configs.md says what a config.json holds",
                    guess::looked_for(&shapes)
                ))
            })?;
            (guess.config, guess.guesses)
        }
    };
    let notes = remarks.iter().cloned().map(Note::Input).collect();
    let fields = config.fields.clone();
    let built = nets::build(&config).and_then(|net| {
        let model = model::build(
            Source { path, config, tensors, beside, ties, remarks, sizes },
            net.clone(),
            args.files.retie(),
        )?;
        Ok(Network::of(&*net, &model))
    });
    let (network, fault) = match built {
        Ok(network) => (Some(network), None),
        Err(error) => (None, Some(error.message)),
    };
    let recognised = Recognised {
        source,
        config: fields,
        guesses: guesses.into_iter().map(String::from).collect(),
        network,
        fault,
        output: args.output.clone(),
        notes,
    };
    recognised.saved()
}

/// The configuration that an artifact brings along.
fn of_artifact(args: &ConfigArgs, path: PathBuf) -> Result<Recognised> {
    let model = open(&path)?.model;
    let config = model.config.fields.clone();
    if config.is_empty() {
        return Err(Error::input(format!("{} holds no configuration", path.display()))
            .hint("the model that it was packed from had none"));
    }
    let (network, fault) = match model.network() {
        Ok(net) => (Some(Network::of(net, &model)), None),
        Err(why) => (None, Some(why.message)),
    };
    let (guesses, output, notes) = (Vec::new(), args.output.clone(), Vec::new());
    Recognised { source: Some(path), config, guesses, network, fault, output, notes }.saved()
}

impl Network {
    fn of(net: &dyn Net, model: &Model) -> Network {
        Network {
            layers: net.layers(),
            vocab: net.vocab_size(),
            context: net.context(),
            tensors: model.specs.len(),
            stored: model.weights(),
        }
    }
}

impl Recognised {
    /// Itself, once the configuration is where it was asked for.
    fn saved(self) -> Result<Recognised> {
        if let Some(path) = &self.output {
            save::save(path, self.json().as_bytes())?;
        }
        Ok(self)
    }

    /// The configuration as a file.
    fn json(&self) -> String {
        serde_json::to_string_pretty(&self.config).expect("a configuration is plain data") + "\n"
    }

    /// The configuration, unless it went to a file.
    pub fn text(&self) -> String {
        match &self.output {
            None => self.json(),
            Some(path) => format!("wrote {}\n", path.display()),
        }
    }

    /// Where it is from, what it means and which keys are guesses.
    pub fn aside(&self) -> String {
        let mut out = match &self.source {
            Some(path) => format!("from {}\n", path.display()),
            None => "recognised from the names and shapes of the tensors\n".into(),
        };
        if let Some(network) = &self.network {
            let Network { layers, vocab, context, tensors, stored } = network;
            let [tensors, stored] = [tensors, stored].map(|n| count(*n));
            out += &format!(
                "{layers} layers, {vocab} token ids, rows of {context} tokens; {tensors} tensors, which fit; \
                 {stored} stored weights\n"
            );
        }
        if !self.guesses.is_empty() {
            let guesses = self.guesses.join(", ");
            out += &format!(
                "\nnote: guesses, no shape tells them: {guesses}\nhint: set them to what the model was trained with\n"
            );
        }
        if let Some(fault) = &self.fault {
            out += &format!("\nnote: not usable as it is: {fault}\nhint: correct it before packing\n");
        }
        for note in &self.notes {
            out += &format!("\nnote: {}\nhint: {}\n", note.message(), note.hint());
        }
        out + "\n"
    }
}
