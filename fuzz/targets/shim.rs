//! What a caller of the shim may send: frames, and in them each message that it reads.

#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use shim::frames::{Frame, decode, encode};
use shim::messages::{
    BootstrapParams, CheckpointTaskRequest, CloseIoRequest, ConnectRequest, CreateTaskRequest,
    DeleteRequest, ExecProcessRequest, KillRequest, Options, PidsRequest, Request,
    ResizePtyRequest, RuntimeOptions, ShutdownRequest, StateRequest, UpdateTaskRequest,
    WaitRequest,
};

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes.to_vec();
    while let Ok(Some(Frame { stream, kind, data })) = decode(&mut rest) {
        let again = encode(stream, kind, &data).expect("what was read can be written");
        assert_eq!(
            decode(&mut again.clone()),
            Ok(Some(Frame { stream, kind, data: data.clone() }))
        );
        if let Ok(request) = Request::decode(&*data) {
            read(&request.payload);
        }
    }
    read(bytes);
});

fn read(bytes: &[u8]) {
    macro_rules! each {
        ($($message:ty),*) => { $(
            if let Ok(message) = <$message>::decode(bytes) {
                let text = message.encode_to_vec();
                assert_eq!(<$message>::decode(&*text).as_ref(), Ok(&message));
            }
        )* };
    }
    each!(
        Request,
        CreateTaskRequest,
        DeleteRequest,
        ExecProcessRequest,
        ResizePtyRequest,
        StateRequest,
        KillRequest,
        CloseIoRequest,
        PidsRequest,
        CheckpointTaskRequest,
        UpdateTaskRequest,
        WaitRequest,
        ConnectRequest,
        ShutdownRequest,
        Options,
        RuntimeOptions,
        BootstrapParams
    );
}
