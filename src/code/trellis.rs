pub struct Trellis { pub states: usize, pub next: Vec<[u8; 2]>, pub grid: Vec<u8> }
impl Trellis {
    pub fn four() -> Self { Trellis { states: 4, next: vec![[0,2],[2,0],[1,3],[3,1]], grid: vec![0,0,1,1] } }
    pub fn eight() -> Self { Trellis { states: 8, next: vec![[0,2],[5,7],[1,3],[6,4],[2,0],[4,6],[3,1],[7,5]].into_iter().collect(), grid: vec![0,0,0,0,1,1,1,1] } }
}
