// Negotiation: which stream, in whose buffers. Decided by asking, then by really trying.
//
// A device's list of formats says what it might take; only an import says what it does take. So for a stream that every
// participant says it knows, one buffer is allocated by each allocator in turn and imported everywhere. What the
// consumers need of a buffer (Needs) is asked for first; what works without it is taken too. Of the allocators that
// work, the cheapest makes the buffers. Every refusal is kept, with the device, the call and the errno.
#pragma once

#include <dmaflow/device.hpp>

#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace dmaflow {

/// One combination that was looked at.
struct Candidate {
  StreamConfig config{};           ///< its constraints are those that the allocator was asked to meet
  std::string allocator{};         ///< empty where the stream was refused before any buffer was made
  std::string refused_by{};        ///< the participant's name; empty where nobody refused
  std::optional<Error> refusal{};  ///< empty where it works
  std::uint32_t cost = 0;          ///< of working ones; the lowest was chosen

  [[nodiscard]] std::string describe() const;
};

/// What was agreed on.
struct Plan {
  StreamConfig config{};
  Allocator* allocator = nullptr;
  Constraints constraints{};            ///< what the allocator is asked to meet: the producer's and the consumers'
  Usage usage{};                        ///< what all participants do with the buffers
  std::uint32_t buffers = 0;            ///< how many
  bool copies = false;                  ///< each frame is copied once: only where the caller allowed it
  std::vector<Candidate> candidates{};  ///< all that were looked at, the chosen one included

  /// What to ask the allocator for.
  [[nodiscard]] Request request() const;
  /// For people: what was chosen and, line by line, why not the others.
  [[nodiscard]] std::string explain() const;
};

/// Nothing works.
struct Refused {
  Error error;  ///< the summary: ENOTSUP, or the one reason where there is only one
  std::vector<Candidate> candidates{};

  /// For people: every candidate and its reason.
  [[nodiscard]] std::string explain() const;
};

/// One link to agree on: who fills the buffers and who uses them.
struct Link {
  Producer* producer = nullptr;
  std::vector<Importer*> consumers{};
  std::vector<Allocator*> allocators{};  ///< beside the participants' own; order is preference among equal cost
  std::vector<Allocator*> excluded{};    ///< not these: one buffer worked, but as many as are needed did not
  StreamRequest request{};
  std::uint32_t queued = 0;  ///< frames that wait between the participants, beside what each may hold
};

/// Agrees on a plan, or says why there is none. Leaves every participant configured for the plan, and no buffer behind.
/// Cost, lowest first: the consumer's own memory (a display's is always fit to be shown), the producer's own,
/// contiguous memory, any other in the order given. Where a consumer needs cached memory (Constraints::cached), all
/// cached memory comes before any other. Buffers = the producer's minimum + what every consumer may hold +
/// those queued + 1; asking for fewer is refused, for it would end in a stall. Thread: the loop's. Not for use while
/// streaming.
[[nodiscard]] std::expected<Plan, Refused> negotiate(const Link& link);

}  // namespace dmaflow
