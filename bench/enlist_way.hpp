// Hands ways of doing an operation to Google Benchmark.
#pragma once

#include "operation.hpp"

#include <string>
#include <utility>

#include <benchmark/benchmark.h>

namespace bench {

/// Registers @p run, called with a benchmark::State&, as "operation/way". Google Benchmark keeps the entry.
template <typename Run>
auto* enlist_way(const Operation& operation, const Way& way, Run run) {
  const std::string name = operation.name + "/" + way.name;
  const char* const text = name.c_str();  // earlier ones take nothing else, and later ones strings
  return benchmark::RegisterBenchmark(text, std::move(run));
}

}  // namespace bench
