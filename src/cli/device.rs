//! `--device` and `--precision`: where networks run, and in what.

use candle_core::{DType, Device};

use crate::error::{Error, Result};

/// A device that the command line names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(usize),
}

/// Reads `cpu`, `cuda` or `cuda:N`.
///
/// # Errors
/// It is none of them.
pub fn parse(text: &str) -> std::result::Result<DeviceChoice, String> {
    let wanted = || "wanted cpu or cuda:N".to_string();
    match text.split_once(':') {
        None if text == "cpu" => Ok(DeviceChoice::Cpu),
        None if text == "cuda" => Ok(DeviceChoice::Cuda(0)),
        Some(("cuda", number)) => number.parse().map(DeviceChoice::Cuda).map_err(|_| wanted()),
        _ => Err(wanted()),
    }
}

/// What networks compute in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    F32,
    Bf16,
}

impl Precision {
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }
}

impl DeviceChoice {
    /// # Errors
    /// Usage when this program knows no such devices; Compute when the machine has none of that number.
    pub fn open(self) -> Result<Device> {
        let DeviceChoice::Cuda(number) = self else { return Ok(Device::Cpu) };
        if !candle_core::utils::cuda_is_available() {
            return Err(Error::usage(format!("--device cuda:{number}: this tiepack was built without CUDA"))
                .hint("use --device cpu, or build tiepack with `--features cuda`"));
        }
        let device = Device::new_cuda(number).map_err(|e| {
            let why = Error::from(e).message;
            Error::compute(format!("--device cuda:{number}: there is no such GPU, or it does not answer; {why}"))
                .hint("`nvidia-smi -L` lists the GPUs of this machine; --device cpu needs none")
        })?;
        #[cfg(feature = "cuda")]
        keep_freed_memory(&device);
        Ok(device)
    }
}

/// Lets the pool that tensors come from keep what they free: by default it gives all of it back whenever a result is read, and
/// the next pass has it mapped anew. A driver that knows no pools goes on as it does.
#[cfg(feature = "cuda")]
fn keep_freed_memory(device: &Device) {
    use candle_core::cuda_backend::cudarc::driver::{result, sys};
    let Ok(cuda) = device.as_cuda_device() else { return };
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device is open, its pool is the one it has, and this attribute is a cuuint64_t.
    let _ = unsafe {
        result::device::get_mem_pool(cuda.cuda_stream().context().cu_device())
            .and_then(|pool| result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast()))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_name() {
        assert_eq!(parse("cpu"), Ok(DeviceChoice::Cpu));
        assert_eq!(parse("cuda"), Ok(DeviceChoice::Cuda(0)));
        assert_eq!(parse("cuda:3"), Ok(DeviceChoice::Cuda(3)));
        for other in ["", "cuda:", "cuda:-1", "cuda:x", "gpu", "cpu:0", "CPU"] {
            assert!(parse(other).is_err(), "{other:?}");
        }
    }
}
