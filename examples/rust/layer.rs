// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
//! examples/rust/layer.rs -- a layer of a checkpoint on rows of a file, by rustc alone:
//!
//!     rustc -O layer.rs -L native=$(pkg-config --variable=libdir switchyard-c) -l switchyard_c
//!     ./layer data/tiny-code-moe 1 rows.bf16 output.bf16
use std::ffi::{c_void, CStr, CString};
use std::mem::size_of;
use std::os::raw::{c_char, c_int};
use std::ptr::null_mut;

/// The C API. Handles are `*mut c_void`; structs are those of switchyard.h.
mod swy {
    use super::*;
    pub const VERSION: u32 = 1;
    pub const BF16: i32 = 0;
    pub type Handle = *mut c_void;

    #[repr(C)]
    #[derive(Clone, Copy)]
    pub struct Tensor {
        pub data: *mut c_void,
        pub shape: [i64; 4],
        pub strides: [i64; 4],
        pub rank: i32,
        pub dtype: i32,
        pub device: i32,
        pub reserved: [u32; 3],
    }
    #[repr(C)]
    pub struct Config {
        pub size: usize,
        pub hidden: i64,
        pub intermediate: i64,
        pub num_experts: i64,
        pub top_k: i64,
        pub rest: [u64; 20], // the checkpoint's
    }
    #[repr(C)]
    pub struct Options {
        pub size: usize,
        pub max_tokens: i64,
        pub rest: [u64; 13], // the defaults
    }
    #[repr(C)]
    pub struct ForwardArgs {
        pub size: usize,
        pub output: Tensor,
        pub hidden: Tensor,
        pub ids: Tensor,
        pub weights: Tensor,
        pub token_ids: Tensor,
        pub max_tokens: i64,
        pub stream: *mut c_void,
        pub workspace: [usize; 2],
    }
    const _: () = assert!(size_of::<Tensor>() == 96 && size_of::<Config>() == 200);
    const _: () = assert!(size_of::<Options>() == 120 && size_of::<ForwardArgs>() == 520);

    extern "C" {
        pub fn swy_last_error() -> *const c_char;
        pub fn swy_config_init(config: *mut Config, size: usize) -> c_int;
        pub fn swy_options_init(options: *mut Options, size: usize) -> c_int;
        pub fn swy_forward_args_init(args: *mut ForwardArgs, size: usize) -> c_int;
        pub fn swy_context_create(version: u32, options: *const c_void, out: *mut Handle) -> c_int;
        pub fn swy_memory_create(c: Handle, bytes: usize, out: *mut Handle, data: *mut *mut c_void) -> c_int;
        pub fn swy_copy_to_device(c: Handle, to: *const Tensor, from: *const c_void, stream: *mut c_void) -> c_int;
        pub fn swy_copy_to_host(c: Handle, to: *mut c_void, from: *const Tensor, stream: *mut c_void) -> c_int;
        pub fn swy_checkpoint_create(folder: *const c_char, layer_json: *const c_char, out: *mut Handle) -> c_int;
        pub fn swy_checkpoint_config(checkpoint: Handle, layer: i64, config: *mut Config) -> c_int;
        pub fn swy_weights_create_from_checkpoint(
            context: Handle, checkpoint: Handle, layer: i64, num_ranks: i32, rank: i32, out: *mut Handle,
        ) -> c_int;
        pub fn swy_layer_create(
            context: Handle, config: *const Config, weights: Handle, group: Handle, options: *const Options,
            out: *mut Handle,
        ) -> c_int;
        pub fn swy_layer_forward(layer: Handle, args: *const ForwardArgs, report: *mut c_void) -> c_int;
        pub fn swy_layer_wait(layer: Handle, stream: *mut c_void) -> c_int;
        pub fn swy_context_destroy(context: Handle);
        pub fn swy_memory_destroy(memory: Handle);
        pub fn swy_checkpoint_destroy(checkpoint: Handle);
        pub fn swy_weights_destroy(weights: Handle);
        pub fn swy_layer_destroy(layer: Handle);
    }
}
use swy::*;

fn need(status: c_int) -> Result<(), String> {
    match status {
        0 => Ok(()),
        _ => Err(unsafe { CStr::from_ptr(swy_last_error()) }.to_string_lossy().into_owned()),
    }
}

/// A handle that ends with its scope.
struct Owned(Handle, unsafe extern "C" fn(Handle));
impl Drop for Owned {
    fn drop(&mut self) {
        unsafe { (self.1)(self.0) }
    }
}

fn made(end: unsafe extern "C" fn(Handle), create: impl FnOnce(*mut Handle) -> c_int) -> Result<Owned, String> {
    let mut handle = null_mut();
    need(create(&mut handle))?;
    Ok(Owned(handle, end))
}

fn initialised<T>(init: unsafe extern "C" fn(*mut T, usize) -> c_int) -> Result<T, String> {
    let mut value = std::mem::MaybeUninit::uninit();
    unsafe {
        need(init(value.as_mut_ptr(), size_of::<T>()))?;
        Ok(value.assume_init())
    }
}

/// Memory of the context's device for bf16 rows, and a view of it.
fn rows(context: &Owned, count: i64, width: i64) -> Result<(Owned, Tensor), String> {
    let mut data = null_mut();
    let bytes = (count * width * 2) as usize;
    let memory = made(swy_memory_destroy, |out| unsafe { swy_memory_create(context.0, bytes, out, &mut data) })?;
    let shape = [count, width, 0, 0];
    Ok((memory, Tensor { data, shape, strides: [0; 4], rank: 2, dtype: BF16, device: 0, reserved: [0; 3] }))
}

fn run(folder: &str, number: i64, input: &[u8]) -> Result<Vec<u8>, String> {
    let folder = CString::new(folder).map_err(|e| e.to_string())?;
    // [layer]
    let mut config = initialised(swy_config_init)?;
    let mut options = initialised(swy_options_init)?;
    let mut args = initialised(swy_forward_args_init)?;
    unsafe {
        let context = made(swy_context_destroy, |out| swy_context_create(VERSION, null_mut(), out))?;
        let checkpoint =
            made(swy_checkpoint_destroy, |out| swy_checkpoint_create(folder.as_ptr(), null_mut(), out))?;
        need(swy_checkpoint_config(checkpoint.0, number, &mut config))?;
        let weights = made(swy_weights_destroy, |out| {
            swy_weights_create_from_checkpoint(context.0, checkpoint.0, number, 1, 0, out)
        })?;

        let tokens = input.len() as i64 / 2 / config.hidden;
        options.max_tokens = tokens;
        let layer = made(swy_layer_destroy, |out| {
            swy_layer_create(context.0, &config, weights.0, null_mut(), &options, out)
        })?;

        let (_hidden, hidden) = rows(&context, tokens, config.hidden)?;
        let (_output, output) = rows(&context, tokens, config.hidden)?;
        need(swy_copy_to_device(context.0, &hidden, input.as_ptr().cast(), null_mut()))?;
        args.hidden = hidden;
        args.output = output;
        need(swy_layer_forward(layer.0, &args, null_mut()))?;
        need(swy_layer_wait(layer.0, null_mut()))?;
        let mut result = vec![0u8; input.len()];
        need(swy_copy_to_host(context.0, result.as_mut_ptr().cast(), &output, null_mut()))?;
        Ok(result)
    }
    // [layer]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let input = std::fs::read(&args[3])?;
    std::fs::write(&args[4], run(&args[1], args[2].parse()?, &input)?)?;
    Ok(())
}
