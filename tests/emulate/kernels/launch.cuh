/* SPDX-License-Identifier: MIT */
/* launch - a grid as a loop over its blocks */
#ifndef EMULATE_LAUNCH_CUH
#define EMULATE_LAUNCH_CUH

#include <functional>
#include <tuple>

void launch(dim3 grid, unsigned threads, size_t shared, const std::function<void()> &kernel);

/* Arguments are taken once, as a GPU gets them. */
template<typename... P, typename... A>
static void
launch_with(void (*kernel)(P...), dim3 grid, unsigned threads, size_t shared, A... arguments)
{
	std::tuple<P...> taken(arguments...);

	launch(grid, threads, shared, [=]() { std::apply(kernel, taken); });
}

#define LAUNCH(kernel, grid, threads, shared, ...) launch_with(kernel, grid, (unsigned)(threads), shared, __VA_ARGS__)
#define LAUNCHED_SHARED(type, name) type *name = (type *)launched_shared

#endif
