//! Pickles as data: the part of Python's serialisation that PyTorch writes for tensors, and nothing that could run.
//!
//! A pickle is a program for a stack machine; two of its operations name Python objects and call them. Here names are
//! looked up in a short list of types that hold tensors or plain data ([`super::names`]), any other name refuses the
//! file, and nothing is called: a tensor is kept as the arguments that it would be rebuilt from.
//!
//! Every value lives once in an arena and is referred to by number, so that a pickle that doubles itself by
//! reference, or nests without end, costs no more than its length; numbers and the like share one value, so that a
//! long list of losses costs a reference for each. Format: Python's `pickletools`, protocols 2 to 5.

use std::collections::HashMap;

use super::dtype::Element;
use super::names::lookup;
use crate::error::{Error, Result};

/// Different values of one pickle; a state dict takes some twenty for a tensor.
const MAX_VALUES: usize = 1 << 21;

/// Number of a value in its pickle.
pub type Id = u32;

/// A Python name that is known to be data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// `dict` and its kin.
    Dict,
    Rebuild(Rebuild),
    /// A typed storage or a `torch.dtype`.
    Element(Element),
    /// A storage or `torch.dtype` of elements that are not read.
    Exotic(&'static str),
    /// `UntypedStorage`: bytes, whose type the tensor says.
    Untyped,
    /// A kind of tensor that is made of others.
    Wrapper(&'static str),
    /// Something else without code, of no interest here.
    Data,
}

/// The layout of a tensor's arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rebuild {
    /// storage, offset, size, stride, …; the element type is the storage's.
    Typed,
    /// The same, with the element type in seventh place.
    Untyped,
    /// tensor, …
    Parameter,
    /// function, type, arguments, state.
    Subclass,
    /// A kind of tensor that is not read.
    Foreign(&'static Foreign),
}

/// A kind of tensor that is not read.
#[derive(Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Completes the sentence "the tensor is …".
    pub kind: &'static str,
    /// What to save instead.
    pub way_out: &'static str,
}

/// A value.
#[derive(Debug)]
pub enum Value<'a> {
    Int(i64),
    Bool(bool),
    Text(&'a str),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// Keys and values in the order they were set.
    Dict(Vec<(Id, Id)>),
    Name(Name),
    /// What the file's table of storages has under this.
    Persistent(Id),
    /// A tensor: how it is rebuilt, and the tuple of arguments.
    Tensor(Rebuild, Id),
    /// What it would be made of: arguments, state, members.
    Object(Vec<Id>),
    /// A class that is not known, of which a bare object is made: its module and name, between them a line's end.
    Class(&'a str),
    /// Anything else, by what it is.
    Other(&'static str),
}

impl Value<'_> {
    /// As a person would call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Int(_) => "an integer",
            Value::Bool(_) => "a boolean",
            Value::Text(_) => "a string",
            Value::Tuple(_) => "a tuple",
            Value::List(_) => "a list",
            Value::Dict(_) => "a dict",
            Value::Name(_) => "a type",
            Value::Persistent(_) => "a storage",
            Value::Tensor(..) => "a tensor",
            Value::Object(_) => "an object",
            Value::Class(_) => "a class",
            Value::Other(kind) => kind,
        }
    }
}

/// A pickle that has been read.
#[derive(Debug)]
pub struct Pickle<'a> {
    values: Vec<Value<'a>>,
    /// What dicts have beside their entries, as the `_metadata` of a state dict.
    states: Vec<(Id, Id)>,
    pub root: Id,
}

impl<'a> Pickle<'a> {
    /// The value of that number.
    pub fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id as usize]
    }

    /// The elements of a tuple or a list.
    pub fn items(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(items) | Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// Every value that is made of others, with each of these; tensors count as whole.
    pub fn parts(&self) -> impl Iterator<Item = (Id, Id)> {
        let of = |(id, value): (usize, &Value)| {
            let parts = match value {
                Value::Tuple(items) | Value::List(items) | Value::Object(items) => items.clone(),
                Value::Dict(entries) => entries.iter().map(|(_, value)| *value).collect(),
                _ => Vec::new(),
            };
            parts.into_iter().map(move |part| (id as Id, part))
        };
        let made =
            |part: Id| !matches!(self.get(part), Value::Int(_) | Value::Bool(_) | Value::Text(_) | Value::Other(_));
        let parts = self.values.iter().enumerate().flat_map(of).filter(move |(_, part)| made(*part));
        parts.chain(self.states.iter().copied())
    }

    /// Numbers of all tensors.
    pub fn tensors(&self) -> impl Iterator<Item = Id> {
        let tensor = |(id, value): (usize, &Value)| matches!(value, Value::Tensor(..)).then_some(id as Id);
        self.values.iter().enumerate().filter_map(tensor)
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// What stands beside the entries of dicts.
    pub fn states(&self) -> &[(Id, Id)] {
        &self.states
    }
}

/// Reads a pickle.
///
/// # Errors
/// It names code, is cut off, uses an operation that PyTorch does not write, or has more than 2,097,152 values.
pub fn read(bytes: &[u8]) -> Result<Pickle<'_>> {
    let mut machine = Machine { bytes, ..Machine::default() };
    loop {
        let start = machine.at;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(root)) => return Ok(Pickle { values: machine.values, states: machine.states, root }),
            Err(Fault::Code(name)) => {
                let class = machine.values.iter().find_map(|value| match value {
                    Value::Class(class) => Some(format!("holds a pickled object of {} and ", dotted(class))),
                    _ => None,
                });
                let class = class.unwrap_or_default();
                return Err(Error::input(format!("the file {class}asks for {name}, which is code; nothing was run"))
                    .hint("save the tensors alone: torch.save(model.state_dict(), \"model.pt\")"));
            }
            Err(Fault::Damage(what)) => {
                return Err(Error::input(format!("the pickle is damaged: {what} at byte {start} of {}", bytes.len())));
            }
        }
    }
}

enum Fault {
    /// A name that is not on the list.
    Code(String),
    Damage(String),
}

impl From<&str> for Fault {
    fn from(what: &str) -> Self {
        Fault::Damage(what.to_string())
    }
}

type Step<T> = std::result::Result<T, Fault>;

#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
    states: Vec<(Id, Id)>,
    /// Numbers and kinds of values that need to be held only once.
    integers: HashMap<i64, Id>,
    plain: HashMap<&'static str, Id>,
    stack: Vec<Id>,
    /// Heights of the stack at which a mark stands.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// One operation; the result when it was the last.
    fn step(&mut self) -> Step<Option<Id>> {
        match self.byte()? {
            0x80 => match self.byte()? {
                2..=5 => {}
                version => return Err(Fault::Damage(format!("protocol {version}, wanted 2 to 5"))),
            },
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => self.stack.push(self.top()?),
            // A frame is a hint for reading ahead.
            0x95 => drop(self.take(8)?),

            b'N' => self.plain("None")?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'G' => self.take(8).and_then(|_| self.plain("a float"))?,
            b'K' => self.length(1).and_then(|n| self.integer(n as i64))?,
            b'M' => self.length(2).and_then(|n| self.integer(n as i64))?,
            b'J' => {
                let n = self.length(4)? as u32 as i32;
                self.integer(n.into())?;
            }
            0x8a => self.length(1).and_then(|n| self.long(n))?,
            0x8b => self.length(4).and_then(|n| self.long(n))?,
            b'X' => self.text(4)?,
            0x8c => self.text(1)?,
            0x8d => self.text(8)?,
            b'C' | b'U' => self.blob(1)?,
            b'B' | b'T' => self.blob(4)?,
            0x8e => self.blob(8)?,

            b')' => self.push(Value::Tuple(Vec::new()))?,
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => self.pop_mark().and_then(|items| self.push(Value::Tuple(items)))?,
            b']' => self.push(Value::List(Vec::new()))?,
            b'l' => self.pop_mark().and_then(|items| self.push(Value::List(items)))?,
            b'a' => self.pop().and_then(|item| self.append(vec![item]))?,
            b'e' => self.pop_mark().and_then(|items| self.append(items))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b'd' => {
                let items = self.pop_mark()?;
                self.push(Value::Dict(Vec::new()))?;
                self.set(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[key, value])?;
            }
            b'u' => self.pop_mark().and_then(|items| self.set(&items))?,
            0x8f => self.push(Value::Object(Vec::new()))?,
            0x90 => self.pop_mark().and_then(|items| self.append(items))?,
            0x91 => self.pop_mark().and_then(|items| self.push(Value::Object(items)))?,

            b'q' => self.length(1).and_then(|n| self.keep(n as u32))?,
            b'r' => self.length(4).and_then(|n| self.keep(n as u32))?,
            0x94 => self.keep(self.memo.len() as u32)?,
            b'h' => self.length(1).and_then(|n| self.recall(n as u32))?,
            b'j' => self.length(4).and_then(|n| self.recall(n as u32))?,

            b'c' => {
                let start = self.at;
                let (module, name) = (self.line()?, self.line()?);
                let whole = std::str::from_utf8(&self.bytes[start..self.at - 1]).unwrap_or(name);
                self.name(module, name, whole)?;
            }
            0x93 => match [self.pop()?, self.pop()?].map(|id| &self.values[id as usize]) {
                [&Value::Text(name), &Value::Text(module)] => self.name(module, name, name)?,
                _ => return Err("a name that is no string".into()),
            },
            b'Q' => self.pop().and_then(|id| self.push(Value::Persistent(id)))?,
            operation @ (b'R' | 0x81) => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                match &self.values[callee as usize] {
                    Value::Class(class) if operation == b'R' => return Err(Fault::Code(dotted(class))),
                    _ => self.call(callee, arguments)?,
                }
            }
            0x92 => {
                let (_, arguments, callee) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(callee, arguments)?;
            }
            b'b' => {
                let (state, object) = (self.pop()?, self.top()?);
                match &mut self.values[object as usize] {
                    Value::Object(parts) => parts.push(state),
                    _ => self.states.push((object, state)),
                }
            }
            other => return Err(Fault::Damage(format!("operation {other:#04x}, which PyTorch does not write"))),
        }
        Ok(None)
    }

    fn push(&mut self, value: Value<'a>) -> Step<()> {
        if self.values.len() == MAX_VALUES {
            return Err(Fault::Damage(format!("more than {MAX_VALUES} values")));
        }
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
        Ok(())
    }

    /// A value of which only the kind is known: held once.
    fn plain(&mut self, kind: &'static str) -> Step<()> {
        match self.plain.get(kind) {
            Some(id) => self.stack.push(*id),
            None => {
                self.plain.insert(kind, self.values.len() as Id);
                self.push(Value::Other(kind))?;
            }
        }
        Ok(())
    }

    /// A number, held once however often it comes.
    fn integer(&mut self, n: i64) -> Step<()> {
        match self.integers.get(&n) {
            Some(id) => self.stack.push(*id),
            None => {
                self.integers.insert(n, self.values.len() as Id);
                self.push(Value::Int(n))?;
            }
        }
        Ok(())
    }

    /// The topmost value above the last mark.
    fn top(&self) -> Step<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack[floor..].last().copied().ok_or_else(|| "nothing on the stack".into())
    }

    fn pop(&mut self) -> Step<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or("no mark on the stack")?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, length: usize) -> Step<()> {
        let mut items = (0..length).map(|_| self.pop()).collect::<Step<Vec<Id>>>()?;
        items.reverse();
        self.push(Value::Tuple(items))
    }

    fn append(&mut self, items: Vec<Id>) -> Step<()> {
        let list = self.top()?;
        match &mut self.values[list as usize] {
            Value::List(list) | Value::Object(list) => list.extend(items),
            other => return Err(Fault::Damage(format!("{} that is appended to", other.kind()))),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Step<()> {
        let dict = self.top()?;
        if !items.len().is_multiple_of(2) {
            return Err("a key without a value".into());
        }
        match &mut self.values[dict as usize] {
            Value::Dict(dict) => dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            Value::Object(parts) => parts.extend(items),
            other => return Err(Fault::Damage(format!("{} whose items are set", other.kind()))),
        }
        Ok(())
    }

    fn keep(&mut self, key: u32) -> Step<()> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Step<()> {
        let id = *self.memo.get(&key).ok_or("a value that was never kept")?;
        self.stack.push(id);
        Ok(())
    }

    /// Looks a name up; `whole` is all of it, to be remembered where it is a class of which an object is made.
    fn name(&mut self, module: &'a str, name: &'a str, whole: &'a str) -> Step<()> {
        match lookup(module, name) {
            Some(found) => self.push(Value::Name(found)),
            None if self.makes_object() => self.push(Value::Class(whole)),
            None => Err(Fault::Code(printable(&format!("{module}.{name}")))),
        }
    }

    /// Whether the name that was just read is asked for a bare object, as those of Python classes are, and not called:
    /// empty arguments and the operation that makes one follow.
    fn makes_object(&self) -> bool {
        let rest = &self.bytes[self.at..];
        let rest = match rest {
            [b'q', _, rest @ ..] | [b'r', _, _, _, _, rest @ ..] | [0x94, rest @ ..] => rest,
            rest => rest,
        };
        rest.starts_with(b")\x81")
    }

    /// What a call would make. Nothing is called.
    fn call(&mut self, callee: Id, arguments: Id) -> Step<()> {
        let made = match &self.values[callee as usize] {
            Value::Name(Name::Dict) => {
                // What it is made from, as the factory of a defaultdict, is kept beside its entries.
                self.states.push((self.values.len() as Id, arguments));
                Value::Dict(Vec::new())
            }
            Value::Name(Name::Rebuild(how)) => Value::Tensor(*how, arguments),
            Value::Name(_) | Value::Class(_) => Value::Object(vec![callee, arguments]),
            other => return Err(Fault::Damage(format!("{} that is called", other.kind()))),
        };
        self.push(made)
    }

    fn byte(&mut self) -> Step<u8> {
        self.take(1).map(|b| b[0])
    }

    fn take(&mut self, length: u64) -> Step<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(length).ok().and_then(|n| rest.get(..n)).ok_or("it is cut off")?;
        self.at += taken.len();
        Ok(taken)
    }

    /// An unsigned number of up to eight bytes, little-endian.
    fn length(&mut self, bytes: u64) -> Step<u64> {
        let taken = self.take(bytes)?;
        Ok(taken.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    /// A signed integer of so many bytes; longer than an i64 it is of no use here.
    fn long(&mut self, bytes: u64) -> Step<()> {
        let taken = self.take(bytes)?;
        if taken.len() > 8 {
            return self.plain("a long integer");
        }
        let mut wide = [taken.last().map_or(0, |last| if *last < 0x80 { 0 } else { 0xff }); 8];
        wide[..taken.len()].copy_from_slice(taken);
        self.integer(i64::from_le_bytes(wide))
    }

    fn text(&mut self, size: u64) -> Step<()> {
        let length = self.length(size)?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| "a string that is not UTF-8")?;
        self.push(Value::Text(text))
    }

    fn blob(&mut self, size: u64) -> Step<()> {
        let length = self.length(size)?;
        self.take(length)?;
        self.plain("bytes")
    }

    fn line(&mut self) -> Step<&'a str> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|b| *b == b'\n').ok_or("a name without an end")?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| "a name that is not UTF-8".into())
    }
}

/// Module and name of a class as Python code has them.
pub fn dotted(class: &str) -> String {
    printable(&class.replace('\n', "."))
}

/// The start of a foreign name, safe to print.
fn printable(name: &str) -> String {
    name.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect()
}
