//! Burn's tensors of a GPU as memory of the GPU, and back.
//!
//! With Burn's `fusion` such a tensor stands for operations that wait to be launched, without it
//! for memory. Which of the two is decided for a whole build, by whichever crate asks for
//! `fusion`, and cannot be asked here; so both are understood.

use burn::{
    backend::{
        BackendTensor, BackendTypes, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind,
        TensorMetadata, tensor::FloatTensor,
    },
    tensor::Tensor,
};
use burn_cubecl::{Cube, CubeBackend, CubeDevice, tensor::CubeTensor};
use burn_fusion::{Fusion, FusionBackend, NoOp, get_client, stream::StreamId};
use burn_ir::{InitOperationIr, OperationIr, OperationOutput};

trait Memory: BackendTypes {
    /// The tensor in memory. Operations that wait for it are launched; nothing waits for the GPU.
    fn taken(tensor: FloatTensor<Self>) -> CubeTensor;
    fn given(tensor: CubeTensor) -> FloatTensor<Self>;
}

impl Memory for CubeBackend {
    fn taken(tensor: CubeTensor) -> CubeTensor {
        tensor
    }

    fn given(tensor: CubeTensor) -> CubeTensor {
        tensor
    }
}

impl<B> Memory for Fusion<B>
where
    B: FusionBackend,
    B::FloatTensorPrimitive: From<CubeTensor> + Into<CubeTensor>,
{
    fn taken(tensor: FloatTensor<Self>) -> CubeTensor {
        let client = tensor.client.clone();
        client.resolve_tensor_float::<B>(tensor).into()
    }

    fn given(tensor: CubeTensor) -> FloatTensor<Self> {
        let tensor = FloatTensor::<B>::from(tensor);
        let client = get_client::<B>(&tensor.device());
        let (shape, dtype) = (tensor.shape(), tensor.dtype());
        let handle = B::float_tensor_handle(tensor);
        let made = InitOperationIr::create(shape, dtype, || client.register_tensor_handle(handle));
        let nothing = NoOp::<B>::new();
        client
            .register(StreamId::current(), OperationIr::Init(made), nothing)
            .output()
    }
}

fn primitive<const D: usize>(tensor: Tensor<D>) -> Option<FloatTensor<Cube>> {
    match tensor.into_dispatch().kind {
        DispatchTensorKind::Cube(BackendTensor::Float(tensor)) => Some(tensor),
        _ => None,
    }
}

/// The GPU a tensor is on, if it is one.
pub fn device_of<const D: usize>(tensor: &Tensor<D>) -> Option<CubeDevice> {
    primitive(tensor.clone()).map(|tensor| tensor.device())
}

/// The memory of a tensor on a GPU.
pub fn taken<const D: usize>(tensor: Tensor<D>) -> Option<CubeTensor> {
    primitive(tensor).map(Cube::taken)
}

/// The tensor of memory on a GPU.
pub fn given<const D: usize>(tensor: CubeTensor) -> Tensor<D> {
    Tensor::from_dispatch(DispatchTensor {
        kind: DispatchTensorKind::Cube(BackendTensor::Float(Cube::given(tensor))),
        autodiff: DispatchAutodiffContext::Disabled,
    })
}
