mod wire;

fn main() {
    println!("{}", wire::generated::GENERATION);
}
