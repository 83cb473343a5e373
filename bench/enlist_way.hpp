// Registers the ways of an operation with Google Benchmark.
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
  const char* const text = name.c_str();  // older versions accept only this, newer ones also strings
  return benchmark::RegisterBenchmark(text, std::move(run));
}

}  // namespace bench
