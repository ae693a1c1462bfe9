//! The Python names that a pickle may hold. None of them is ever called.

use super::dtype::Element;
use super::pickle::{Foreign, Name, Rebuild};

/// Element types that no model keeps, quantized ones among them, as storages and `torch.dtype`s call them.
const EXOTIC: [&str; 32] = [
    "qint8",
    "quint8",
    "qint32",
    "quint4x2",
    "quint2x4",
    "QInt8Storage",
    "QUInt8Storage",
    "QInt32Storage",
    "QUInt4x2Storage",
    "QUInt2x4Storage",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "float4_e2m1fn_x2",
    "complex32",
    "ComplexHalfStorage",
    "bits8",
    "bits16",
    "bits1x8",
    "bits2x4",
    "bits4x2",
    "uint1",
    "uint2",
    "uint3",
    "uint4",
    "uint5",
    "uint6",
    "uint7",
    "int1",
    "int2",
    "int4",
    "int7",
];

const SPARSE: Foreign = Foreign { kind: "a sparse tensor", way_out: "save it .to_dense()" };
const META: Foreign =
    Foreign { kind: "a meta tensor, which has no weights", way_out: "load the weights before the model is saved" };
const QUANTIZED: Foreign = Foreign { kind: "a quantized tensor", way_out: "save it .dequantize()" };
const NESTED: Foreign = Foreign { kind: "a nested tensor", way_out: "save its parts by name" };
const WRAPPER: Foreign =
    Foreign { kind: "a tensor of a subclass", way_out: "save a plain tensor, .dequantize() or .full_tensor()" };
const DEVICE: Foreign = Foreign { kind: "a tensor of another device's own format", way_out: "save it .cpu()" };

/// The names that hold tensors or plain data. Everything else is code.
pub fn lookup(module: &str, name: &str) -> Option<Name> {
    Some(match (module, name) {
        ("collections", "OrderedDict" | "defaultdict" | "Counter") | ("builtins" | "__builtin__", "dict") => Name::Dict,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Name::Rebuild(Rebuild::Typed),
        ("torch._utils", "_rebuild_tensor_v3") => Name::Rebuild(Rebuild::Untyped),
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Name::Rebuild(Rebuild::Parameter),
        ("torch._tensor", "_rebuild_from_type_v2") => Name::Rebuild(Rebuild::Subclass),
        ("torch._utils", name) => Name::Rebuild(Rebuild::Foreign(match name {
            "_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor" => &SPARSE,
            "_rebuild_meta_tensor_no_storage" => &META,
            "_rebuild_qtensor" => &QUANTIZED,
            "_rebuild_nested_tensor" => &NESTED,
            "_rebuild_wrapper_subclass" => &WRAPPER,
            "_rebuild_device_tensor_from_numpy" | "_rebuild_device_tensor_from_cpu_tensor" | "_rebuild_xla_tensor" => {
                &DEVICE
            }
            _ => return None,
        })),
        (_, "DTensor") if module.starts_with("torch.distributed.") => Name::Wrapper("a DTensor"),
        (_, "ShardedTensor") if module.starts_with("torch.distributed.") => Name::Wrapper("a ShardedTensor"),
        // Meshes and placements of distributed tensors.
        (_, name) if module.starts_with("torch.distributed.") && is_class(name) => Name::Data,
        (_, name) if module.starts_with("torchao.") && is_class(name) => Name::Wrapper("a quantized tensor of torchao"),
        ("torch.nested._internal.nested_tensor", "_rebuild_njt") => Name::Rebuild(Rebuild::Foreign(&NESTED)),
        ("torch.nested._internal.nested_tensor", "NestedTensor") => Name::Wrapper("a nested tensor"),
        ("torch.serialization", "_get_layout") => Name::Data,
        ("torch.storage", "UntypedStorage") | ("torch", "UntypedStorage") => Name::Untyped,
        ("torch", name) => Name::Element(match name {
            "DoubleStorage" | "float64" => Element::F64,
            "FloatStorage" | "float32" => Element::F32,
            "HalfStorage" | "float16" => Element::F16,
            "BFloat16Storage" | "bfloat16" => Element::Bf16,
            "Float8_e4m3fnStorage" | "float8_e4m3fn" => Element::F8E4m3,
            "Float8_e5m2Storage" | "float8_e5m2" => Element::F8E5m2,
            "BoolStorage" | "bool" => Element::Integer("bool", 1),
            "ByteStorage" | "uint8" => Element::Integer("u8", 1),
            "CharStorage" | "int8" => Element::Integer("i8", 1),
            "ShortStorage" | "int16" => Element::Integer("i16", 2),
            "uint16" => Element::Integer("u16", 2),
            "IntStorage" | "int32" => Element::Integer("i32", 4),
            "uint32" => Element::Integer("u32", 4),
            "LongStorage" | "int64" => Element::Integer("i64", 8),
            "uint64" => Element::Integer("u64", 8),
            // Rotary tables as complex numbers.
            "ComplexFloatStorage" | "complex64" => Element::Integer("complex64", 8),
            "ComplexDoubleStorage" | "complex128" => Element::Integer("complex128", 16),
            "Tensor" | "Size" | "device" | "per_tensor_affine" | "per_channel_affine" => return Some(Name::Data),
            other => return EXOTIC.iter().find(|name| **name == other).map(|name| Name::Exotic(name)),
        }),
        ("torch.nn.parameter", "Parameter" | "Buffer")
        | ("builtins" | "__builtin__", "set" | "frozenset" | "complex" | "bytearray")
        | ("_codecs", "encode")
        | ("argparse", "Namespace")
        | ("types", "SimpleNamespace")
        | ("pathlib" | "pathlib._local", "PosixPath" | "WindowsPath" | "Path")
        | ("datetime", "datetime" | "timedelta")
        | ("numpy", "dtype" | "ndarray")
        | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar" | "_reconstruct") => Name::Data,
        _ => return None,
    })
}

/// Whether a name is written as those of classes are.
fn is_class(name: &str) -> bool {
    name.trim_start_matches('_').starts_with(char::is_uppercase)
}
