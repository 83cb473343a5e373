#include <dmaflow/negotiate.hpp>

#include <algorithm>
#include <cerrno>
#include <cstdio>

namespace dmaflow {
namespace {

/// Cost of memory by whose it is: the rank of the list in negotiate.hpp. Steps leave room for the order among others.
enum Cost : std::uint32_t {
  consumer_memory = 0,
  producer_memory = 100,
  contiguous_memory = 200,
  other_memory = 300,
  not_cached = 1000,  // on top, where a consumer reads by CPU
};

struct Offerer {
  Allocator* allocator = nullptr;
  std::uint32_t cost = 0;
};

/// The cheapest that works.
struct Chosen {
  Allocator* allocator = nullptr;
  StreamConfig config;
  Constraints constraints;
};

/// Who refused, and why.
struct Refusal {
  std::string_view who;
  Error error;
};
using Outcome = std::expected<void, Refusal>;

Outcome refused_by(const Participant& who, const Result<void>& result) {
  if (result) return {};
  return std::unexpected(Refusal{who.name(), result.error()});
}

Usage merge(const Usage& a, const Usage& b) noexcept {
  return {.capture = a.capture || b.capture,
          .scanout = a.scanout || b.scanout,
          .render = a.render || b.render,
          .cpu = a.cpu || b.cpu};
}

/// Of all consumers, as they are configured now.
Needs needs_of(const Link& link) {
  Needs all{.constraints = {}, .usage = link.producer->output_usage(), .modifiers = {}};
  for (const Importer* consumer : link.consumers) {
    const Needs its = consumer->needs();
    all.constraints = merge(all.constraints, its.constraints);
    all.usage = merge(all.usage, its.usage);
  }
  return all;
}

/// Every allocator in question once, in the order of the link.
std::vector<Offerer> offerers(const Link& link) {
  std::vector<Offerer> found;
  const auto add = [&](Allocator* allocator, std::uint32_t cost) {
    if (allocator == nullptr || std::ranges::find(found, allocator, &Offerer::allocator) != found.end()) return;
    if (!link.request.allocator.empty() && allocator->name() != link.request.allocator) return;
    if (std::ranges::find(link.excluded, allocator) != link.excluded.end()) return;
    found.push_back({allocator, cost});
  };
  if (link.producer->brings_buffers()) {
    add(link.producer->output_allocator(), producer_memory);
    return found;
  }
  std::uint32_t order = 0;
  for (Importer* consumer : link.consumers) add(consumer->allocator(), consumer_memory + order++);
  add(link.producer->output_allocator(), producer_memory);
  order = 0;
  for (Allocator* allocator : link.allocators) {
    add(allocator, (allocator->traits().contiguous ? contiguous_memory : other_memory) + order++);
  }
  return found;
}

/// The same, cheapest first. A display's traits may become known only once it is configured.
std::vector<Offerer> by_cost(std::vector<Offerer> found, bool wants_cached) {
  for (Offerer& one : found) {
    if (wants_cached && !one.allocator->traits().cached) one.cost += not_cached;
  }
  std::ranges::stable_sort(found, {}, &Offerer::cost);
  return found;
}

Request request_for(const StreamConfig& config, const Constraints& constraints, const Usage& usage,
                    std::uint32_t count) {
  return Request{.size = config.layout.size,
                 .format = config.layout.format,
                 .modifiers = {config.layout.modifier},
                 .opaque_bytes = config.layout.opaque_bytes,
                 .usage = usage,
                 .count = count,
                 .constraints = constraints};
}

/// Sets the producer and tells every consumer.
Outcome settle(const Link& link, const StreamConfig& config) {
  if (auto outcome = refused_by(*link.producer, link.producer->set_output(config)); !outcome) return outcome;
  for (Importer* consumer : link.consumers) {
    if (auto outcome = refused_by(*consumer, consumer->configure(link.producer->output())); !outcome) return outcome;
  }
  return {};
}

/// Takes a stream with everyone but says nothing of buffers yet.
Outcome agree_on_stream(const Link& link, const StreamConfig& config) {
  for (Importer* consumer : link.consumers) {
    if (auto outcome = refused_by(*consumer, consumer->check(config)); !outcome) return outcome;
  }
  if (auto outcome = settle(link, config); !outcome) return outcome;
  const Modifier modifier = link.producer->output().layout.modifier;
  for (const Importer* consumer : link.consumers) {
    const auto takes = consumer->needs().modifiers;
    if (takes.empty() || std::ranges::find(takes, modifier) != takes.end()) continue;
    std::string names;
    for (const Modifier& one : takes) names += (names.empty() ? "" : ", ") + one.name();
    return std::unexpected(
        Refusal{consumer->name(), Error::os(EINVAL, "negotiate", consumer->name())
                                      .detail("modifier %s; it takes %s", modifier.name().c_str(), names.c_str())});
  }
  return {};
}

/// One buffer of this allocator that meets these constraints, tried with everyone, for the stream agreed on. The
/// producer follows the buffer's strides where they differ.
Outcome try_allocator(const Link& link, Allocator& allocator, const StreamConfig& agreed,
                      const Constraints& constraints, const Usage& usage) {
  if (link.producer->output().layout != agreed.layout) {  // an earlier trial moved it
    if (auto outcome = settle(link, agreed); !outcome) return outcome;
  }
  auto made = allocator.allocate(request_for(link.producer->output(), constraints, usage, 1));
  if (!made) return std::unexpected(Refusal{allocator.name(), made.error()});
  const Buffer buffer = std::move(made->front());
  made->clear();
  if (buffer.layout() != link.producer->output().layout) {
    StreamConfig follow = link.producer->output();
    follow.layout = buffer.layout();
    if (auto outcome = settle(link, follow); !outcome) return outcome;
  }
  if (auto outcome = refused_by(*link.producer, link.producer->try_output(buffer)); !outcome) return outcome;
  for (Importer* consumer : link.consumers) {
    if (auto outcome = refused_by(*consumer, consumer->import(buffer)); !outcome) return outcome;
  }
  const bool moves = allocator.traits().moves ||
                     std::ranges::any_of(link.consumers, [&](const Importer* c) { return c->moves(buffer); });
  if (moves && !link.producer->writes_by_cpu()) {
    return std::unexpected(
        Refusal{allocator.name(),
                Error::os(ENOTSUP, "negotiate", allocator.name())
                    .detail("the driver moves this memory when it is shown, and %s would go on writing to where it was",
                            std::string(link.producer->name()).c_str())});
  }
  return {};
}

void note_refusal(Candidate& candidate, const Refusal& refusal) {
  candidate.refused_by = refusal.who;
  candidate.refusal = refusal.error;
}

std::uint32_t buffers_needed(const Link& link) {
  std::uint32_t needed = link.producer->min_buffers() + link.queued + 1;
  for (const Importer* consumer : link.consumers) needed += consumer->max_held();
  return needed;
}

Refused refuse(std::vector<Candidate> candidates, const Link& link) {
  Error error = Error::os(ENOTSUP, "negotiate", link.producer->name());
  if (candidates.size() == 1) {
    error = *candidates.front().refusal;
  } else if (!candidates.empty()) {
    // The one that came furthest says most: a buffer was made for it.
    const auto furthest = std::ranges::find_if_not(candidates, &std::string::empty, &Candidate::allocator);
    const Candidate& example = furthest == candidates.end() ? candidates.front() : *furthest;
    error.detail("no zero-copy plan among %zu candidates; e.g. %s", candidates.size(), example.describe().c_str());
  }
  return {error, std::move(candidates)};
}

}  // namespace

std::string Candidate::describe() const {
  std::string text = config.describe();
  if (!allocator.empty()) {
    text += " in memory of " + allocator;
    const auto alignment = config.constraints.stride_alignment;
    if (alignment > 1) text += " asked for strides that are multiples of " + std::to_string(alignment);
  }
  if (!refusal) return text + ": works";
  if (refused_by != refusal->device()) text += ": refused by " + refused_by;
  return text + ": " + refusal->message();
}

Request Plan::request() const { return request_for(config, constraints, usage, buffers); }

namespace {

/// Streams refused by the same participant in the same call before any buffer was made differ only in their formats.
bool is_like(const Candidate& a, const Candidate& b) {
  return a.allocator.empty() && b.allocator.empty() && a.refusal && b.refusal && a.refused_by == b.refused_by &&
         a.refusal->operation() == b.refusal->operation() && a.refusal->code() == b.refusal->code();
}

/// One line for a run of like candidates: the first in full, the others by their formats.
std::string describe_run(std::span<const Candidate> run) {
  std::string text = run.front().describe();
  if (run.size() > 1) text += "; likewise";
  for (const Candidate& other : run.subspan(1)) text += " " + other.config.layout.format.name();
  return text;
}

std::string list(std::span<const Candidate> candidates, std::string_view chosen) {
  std::string text;
  while (!candidates.empty()) {
    const Candidate& first = candidates.front();
    const auto end =
        std::ranges::find_if_not(candidates.subspan(1), [&](const Candidate& other) { return is_like(first, other); });
    const auto run = candidates.first(static_cast<std::size_t>(end - candidates.begin()));
    const bool is_chosen = !first.refusal && first.allocator == chosen;
    text += (is_chosen ? "  * " : "    ") + describe_run(run);
    text += !first.refusal && !is_chosen && !chosen.empty() ? ", costs more\n" : "\n";
    candidates = candidates.subspan(run.size());
  }
  return text;
}

}  // namespace

std::string Plan::explain() const {
  return config.describe() + " in " + std::to_string(buffers) + " buffers of " + std::string(allocator->name()) +
         (copies ? ", each frame copied once\n" : ", no copy\n") + list(candidates, allocator->name());
}

std::string Refused::explain() const { return error.message() + "\n" + list(candidates, {}); }

std::expected<Plan, Refused> negotiate(const Link& link) {
  std::vector<Candidate> candidates;
  auto offers = link.producer->offers(link.request);
  if (!offers) return std::unexpected(Refused{offers.error(), {}});
  const auto memory = offerers(link);
  if (memory.empty()) {
    return std::unexpected(Refused{Error::os(EINVAL, "negotiate", link.producer->name())
                                       .detail("no allocator%s%s", link.request.allocator.empty() ? "" : " named ",
                                               link.request.allocator.c_str()),
                                   {}});
  }

  for (const StreamConfig& offer : *offers) {
    Candidate stream{.config = offer, .allocator = {}, .refused_by = {}, .refusal = {}, .cost = 0};
    if (auto outcome = agree_on_stream(link, offer); !outcome) {
      note_refusal(stream, outcome.error());
      candidates.push_back(std::move(stream));
      continue;
    }
    const StreamConfig agreed = link.producer->output();
    const Needs needs = needs_of(link);
    // What the consumers need comes first: a camera may follow, a heap may give it. Where one of them cannot, the
    // consumer may take less than it asked for.
    std::vector<Constraints> asked{merge(agreed.constraints, needs.constraints)};
    Constraints without_needs = agreed.constraints;
    without_needs.cached = asked.front().cached;  // a preference, refused by nobody
    if (asked.front() != without_needs) asked.push_back(without_needs);
    std::optional<Chosen> best;
    // Cheapest first; all are tried, so that the plan can say why not.
    for (const Offerer& offerer : by_cost(memory, needs.constraints.cached)) {
      for (const Constraints& constraints : asked) {
        Candidate candidate = stream;
        candidate.allocator = offerer.allocator->name();
        candidate.cost = offerer.cost;
        auto outcome = try_allocator(link, *offerer.allocator, agreed, constraints, needs.usage);
        candidate.config = link.producer->output();
        candidate.config.constraints = constraints;
        if (!outcome) note_refusal(candidate, outcome.error());
        candidates.push_back(std::move(candidate));
        if (!outcome) continue;
        if (!best) best = Chosen{offerer.allocator, link.producer->output(), constraints};
        break;
      }
    }
    if (!best) continue;

    // The trials of costlier memory may have moved the strides: settle on the chosen ones.
    if (auto settled = agree_on_stream(link, best->config); !settled) {
      return std::unexpected(Refused{settled.error().error, std::move(candidates)});
    }
    const auto needed = buffers_needed(link);
    if (link.request.buffers != 0 && link.request.buffers < needed) {
      return std::unexpected(Refused{Error::os(EINVAL, "negotiate", link.producer->name())
                                         .detail("%u buffers asked for, at least %u are needed: the source keeps %u, "
                                                 "its consumers up to %u, and one moves",
                                                 link.request.buffers, needed, link.producer->min_buffers(),
                                                 needed - link.producer->min_buffers() - 1),
                                     std::move(candidates)});
    }
    return Plan{.config = link.producer->output(),
                .allocator = best->allocator,
                .constraints = best->constraints,
                .usage = needs.usage,
                .buffers = link.request.buffers != 0 ? link.request.buffers : needed,
                .copies = false,
                .candidates = std::move(candidates)};
  }
  return std::unexpected(refuse(std::move(candidates), link));
}

}  // namespace dmaflow
