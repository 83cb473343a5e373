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

/// How much explain() says.
enum class Detail : std::uint8_t {
  brief,  ///< one sentence, and at most six lines of groups
  all,    ///< one sentence, and a line for every candidate
};

/// One combination that was looked at.
struct Candidate {
  /// How far it came before it was refused, the furthest last.
  enum class Step : std::uint8_t {
    check,        ///< a consumer does not take such a stream
    configure,    ///< a device could not be set to the stream, or takes none of its modifiers
    allocate,     ///< the allocator made no buffer
    producer,     ///< the producer does not write to the buffer
    consumer,     ///< a consumer does not import the buffer
    moves,        ///< all devices took it, but the display's driver would move it under the producer
    all_buffers,  ///< one buffer worked, as many as are needed did not
  };
  StreamConfig config{};           ///< its constraints are those that the allocator was asked to meet
  std::string allocator{};         ///< empty where the stream was refused before any buffer was made
  std::string refused_by{};        ///< the participant's name; empty where nobody refused
  std::optional<Error> refusal{};  ///< empty where it works
  std::uint32_t cost = 0;          ///< of working ones; the lowest was chosen
  Step step = Step::check;         ///< of refused ones: where they were refused

  /// One line for people, without its end.
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
  /// For people: "1280x720 XRGB8888 LINEAR stride 5120 60.00/s in 7 buffers of display, no copy", then what else would
  /// work and why the others do not. Each line ends with a newline. Brief: refusals of one device by one call with one
  /// errno share a line; those that came furthest come first, of these the most frequent.
  [[nodiscard]] std::string explain(Detail detail = Detail::brief) const;
  /// For programs: an object with "stream", "width", "height", "format", "modifier", "allocator", "buffers", "copies"
  /// and "candidates". Each candidate has the first five of these, "allocator" (null where no buffer was made),
  /// "works", "cost" and "refusal": null, or an object with "by", "step", "device", "call", "domain" ("os" or
  /// "vulkan"), "errno" (or the VkResult), "name" ("EBUSY") and "detail".
  [[nodiscard]] std::string json() const;
};

/// Nothing works.
struct Refused {
  /// The cause, and what to do. It is the reason of the candidates that came furthest (no buffer made, or buffers made)
  /// where they have one reason. ENOTSUP, with the most frequent furthest reason in the detail, where reasons differ or
  /// where the devices cannot share memory.
  Error error;
  std::vector<Candidate> candidates{};

  /// So that a function that returns Result can return this as any other error.
  [[nodiscard]] operator Error() const noexcept { return error; }  // NOLINT(google-explicit-constructor)
  /// For people: the error in one sentence, then the reasons as Plan::explain() has them.
  [[nodiscard]] std::string explain(Detail detail = Detail::brief) const;
  /// For programs: an object with "error" (as "refusal" of Plan::json(), without "by" and "step") and "candidates", as
  /// Plan::json() has them.
  [[nodiscard]] std::string json() const;
};

/// One link to agree on: who fills the buffers and who uses them.
struct Link {
  Producer* producer = nullptr;
  std::vector<Consumer*> consumers{};
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
