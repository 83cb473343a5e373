// Negotiation: chooses the stream and the allocator of its buffers, by asking the devices and then really trying.
//
// A device's list of formats says what it might take; only an import says what it does take. So for a stream that every
// participant claims to support, each allocator in turn allocates one buffer, which is imported everywhere. Negotiation
// first asks for what the consumers need (Needs), and also accepts buffers that work without it. Of the allocators that
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

/// One combination that was considered.
struct Candidate {
  /// How far it got before it was refused, the furthest step last.
  enum class Step : std::uint8_t {
    check,        ///< a consumer does not take such a stream
    configure,    ///< a device could not be set to the stream, or takes none of its modifiers
    allocate,     ///< the allocator made no buffer
    producer,     ///< the producer does not write to the buffer
    consumer,     ///< a consumer does not import the buffer
    moves,        ///< all devices took it, but the display's driver would move it while the producer uses it
    all_buffers,  ///< one buffer worked, as many as are needed did not
  };
  StreamConfig config{};           ///< its constraints are those that the allocator was asked to meet
  std::string allocator{};         ///< empty if the stream was refused before any buffer was made
  std::string refused_by{};        ///< the participant's name; empty if no participant refused
  std::optional<Error> refusal{};  ///< empty if it works
  std::uint32_t cost = 0;          ///< of a working candidate; the lowest was chosen
  Step step = Step::check;         ///< of a refused candidate: where it was refused

  /// One line for people, without a newline.
  [[nodiscard]] std::string describe() const;
};

/// What was agreed on.
struct Plan {
  StreamConfig config{};
  Allocator* allocator = nullptr;
  Constraints constraints{};            ///< what the allocator is asked to meet: the producer's and the consumers'
  Usage usage{};                        ///< what all participants do with the buffers
  std::uint32_t buffers = 0;            ///< how many
  bool copies = false;                  ///< each frame is copied once: only if the caller allowed it
  std::vector<Candidate> candidates{};  ///< all that were considered, including the chosen one

  /// What to ask the allocator for.
  [[nodiscard]] Request request() const;
  /// For people: "1280x720 XRGB8888 LINEAR stride 5120 60.00/s in 7 buffers of display, no copy", then what else would
  /// work and why the others do not. Each line ends with a newline. Brief: refusals with the same device, call and
  /// errno share a line; the lines are sorted by how far the candidates got, furthest first, then by frequency.
  [[nodiscard]] std::string explain(Detail detail = Detail::brief) const;
  /// For programs: an object with "stream", "width", "height", "format", "modifier", "allocator", "buffers", "copies"
  /// and "candidates". Each candidate has the first five of these, "allocator" (null where no buffer was made),
  /// "works", "cost" and "refusal": null, or an object with "by", "step", "device", "call", "domain" ("os" or
  /// "vulkan"), "errno" (or the VkResult), "name" ("EBUSY") and "detail".
  [[nodiscard]] std::string json() const;
};

/// Nothing works.
struct Refused {
  /// The cause, and what to do. If the candidates that got furthest (no buffer made, or buffers made) all have one
  /// reason, it is that reason. If their reasons differ, or the devices cannot share memory, it is ENOTSUP, with the
  /// most frequent of those reasons in the detail.
  Error error;
  std::vector<Candidate> candidates{};

  /// Lets a function that returns Result return this like any other error.
  [[nodiscard]] operator Error() const noexcept { return error; }  // NOLINT(google-explicit-constructor)
  /// For people: the error in one sentence, then the reasons as Plan::explain() has them.
  [[nodiscard]] std::string explain(Detail detail = Detail::brief) const;
  /// For programs: an object with "error" (as "refusal" of Plan::json(), without "by" and "step") and "candidates", as
  /// Plan::json() has them.
  [[nodiscard]] std::string json() const;
};

/// One link to agree on: the producer that fills the buffers and the consumers that use them.
struct Link {
  Producer* producer = nullptr;
  std::vector<Consumer*> consumers{};
  std::vector<Allocator*> allocators{};  ///< in addition to the participants' own; at equal cost, earlier is preferred
  std::vector<Allocator*> excluded{};    ///< not these: one buffer worked, but as many as are needed did not
  StreamRequest request{};
  std::uint32_t queued = 0;  ///< frames that wait between the participants, in addition to what each may hold
};

/// Agrees on a plan, or reports why there is none. Leaves every participant configured for the plan, and no buffer
/// behind. Cost, lowest first: the consumer's own memory (a display's can always be shown), the producer's own,
/// contiguous memory, any other in the order given. If a consumer needs cached memory (Constraints::cached), all cached
/// memory comes before any other. Buffers = the producer's minimum + what every consumer may hold + those queued + 1; a
/// request for fewer is refused, because it would end in a stall. Thread: the loop's. Not for use while streaming.
[[nodiscard]] std::expected<Plan, Refused> negotiate(const Link& link);

}  // namespace dmaflow
