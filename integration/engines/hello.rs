//! The program of the image `hello-world`: it says hello, and is all that is in it.

fn main() {
    println!("Hello from a container of one program!");
}
