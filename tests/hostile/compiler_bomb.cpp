// makes the compiler work without end
// earns -0.1
template <int N, unsigned long long M> struct a {
	static const unsigned long long v = a<N - 1, 2 * M>::v ^ a<N - 1, 2 * M + 1>::v;
};
template <unsigned long long M> struct a<0, M> { static const unsigned long long v = M; };
int main() { return a<60, 1>::v != 0; }
