// Summarises refusals: those of one device, from one call, with one errno form one reason, no matter how many formats
// and kinds of memory they concern.
#pragma once

#include <dmaflow/negotiate.hpp>

#include <span>
#include <string>
#include <vector>

namespace dmaflow::detail {

/// Refused candidates that share a device, a call and an errno. Points to the candidates it was made from.
struct Reason {
  std::vector<const Candidate*> candidates;  ///< never empty
  Candidate::Step furthest = Candidate::Step::check;

  [[nodiscard]] const Error& error() const noexcept { return *candidates.front()->refusal; }
};

/// The reasons of all refused candidates: those that got furthest come first, and among these the most frequent.
[[nodiscard]] std::vector<Reason> reasons_of(std::span<const Candidate> candidates);

/// Refused::error for these candidates, of which none works. @p may_copy: a copy was allowed, and would not help.
[[nodiscard]] Error summary_of(std::span<const Candidate> candidates, std::string_view producer, bool may_copy);

}  // namespace dmaflow::detail
