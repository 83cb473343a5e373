#include <dmaflow/stats.hpp>

#include "json.hpp"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>

namespace dmaflow {
namespace {

using std::chrono::nanoseconds;
constexpr std::int64_t nanos_per_second = 1'000'000'000;

/// A number with a fixed count of decimals and a point in every locale.
std::string decimal(double value, int places) {
  char text[64];
  const auto [end, error] = std::to_chars(text, text + sizeof text, value, std::chars_format::fixed, places);
  return error == std::errc{} ? std::string(text, end) : std::string("0");
}

double millis(nanoseconds value) { return std::chrono::duration<double, std::milli>(value).count(); }

std::string millis_text(nanoseconds value) { return decimal(millis(value), 1) + " ms"; }

// --- rates ----------------------------------------------------------------------------------------------------------

std::uint64_t presented_first_branches(const Stats& stats) {
  std::uint64_t presented = 0;
  for (const StreamStats& stream : stats.streams) {
    if (!stream.branches.empty()) presented += stream.branches.front().presented;
  }
  return presented;
}

/// The rate of the last complete second; before there is one, the average since the start.
double current_rate(const Stats& stats) {
  const auto full_seconds =
      static_cast<std::uint64_t>(std::max<std::int64_t>(stats.elapsed.count(), 0) / nanos_per_second);
  if (full_seconds >= 1) return stats.recent.of(full_seconds - 1);
  if (stats.elapsed.count() <= 0) return 0;
  return static_cast<double>(presented_first_branches(stats)) / std::chrono::duration<double>(stats.elapsed).count();
}

// --- JSON -----------------------------------------------------------------------------------------------------------

using detail::json::array;
using detail::json::member;
using detail::json::object;

std::string json_of(const Histogram& latency) {
  const auto ms = [](nanoseconds value) { return decimal(millis(value), 3); };
  return object({
      member("count", latency.count()),
      member("p50", ms(latency.percentile(50))),
      member("p99", ms(latency.percentile(99))),
      member("max", ms(latency.max())),
      member("buckets", array(latency.buckets(),
                              [&](const Histogram::Bucket& bucket) {
                                return object({member("from", ms(bucket.from)), member("to", ms(bucket.to)),
                                               member("count", bucket.count)});
                              })),
  });
}

std::string json_of(const BranchStats& branch) {
  const Drops& dropped = branch.dropped;
  return object({member("name", detail::json::quote(branch.name)), member("delivered", branch.delivered),
                 member("presented", branch.presented), member("dropped", dropped.total()),
                 member("drops", object({member("replaced", dropped.replaced), member("queue_full", dropped.queue_full),
                                         member("by_device", dropped.by_device), member("late", dropped.late),
                                         member("discarded", dropped.discarded), member("at_stop", dropped.at_stop)})),
                 member("failed", branch.failed), member("held", branch.held), member("skipped", branch.skipped),
                 member("added", branch.added), member("latency_ms", json_of(branch.latency))});
}

std::string json_of(const StreamStats& stream) {
  return object({member("name", detail::json::quote(stream.name)), member("captured", stream.captured),
                 member("lost", stream.lost), member("erroneous", stream.erroneous),
                 member("bytes_copied", stream.bytes_copied), member("renegotiations", stream.renegotiations),
                 member("branches", array(stream.branches, [](const BranchStats& branch) { return json_of(branch); })),
                 member("removed", array(stream.removed, [](const BranchStats& branch) { return json_of(branch); }))});
}

}  // namespace

// --- Histogram ------------------------------------------------------------------------------------------------------

// Up to 2^sub_bits microseconds, each value has its own bucket; above, each doubling has 2^sub_bits buckets.

std::size_t Histogram::index_of(std::uint64_t micros) noexcept {
  constexpr std::uint64_t steps = 1U << sub_bits;
  if (micros < steps) return static_cast<std::size_t>(micros);
  const auto shift = static_cast<unsigned>(std::bit_width(micros)) - sub_bits - 1;
  if (shift >= doublings) return ((doublings + 1) << sub_bits) - 1;
  return static_cast<std::size_t>((shift << sub_bits) + (micros >> shift));
}

std::uint64_t Histogram::start_of(std::size_t index) noexcept {
  constexpr std::size_t steps = 1U << sub_bits;
  if (index < 2 * steps) return index;
  const std::size_t shift = index / steps - 1;
  return (std::uint64_t{index % steps} + steps) << shift;
}

void Histogram::add(nanoseconds value) noexcept {
  const nanoseconds positive = std::max(value, nanoseconds{0});
  ++counts_[index_of(static_cast<std::uint64_t>(positive.count()) / 1000)];
  ++count_;
  max_ = std::max(max_, positive);
}

nanoseconds Histogram::percentile(double percent) const noexcept {
  if (count_ == 0) return nanoseconds{0};
  const double wanted = std::ceil(std::clamp(percent, 0.0, 100.0) / 100.0 * static_cast<double>(count_));
  const auto rank = std::clamp<std::uint64_t>(static_cast<std::uint64_t>(wanted), 1, count_);
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    seen += counts_[i];
    if (seen < rank) continue;
    // The middle of the bucket, but no more than the largest value; the last rank is exactly the largest value.
    if (rank == count_ || i + 1 == counts_.size()) return max_;
    return std::min(nanoseconds(static_cast<std::int64_t>((start_of(i) + start_of(i + 1)) * 500)), max_);
  }
  return max_;
}

std::vector<Histogram::Bucket> Histogram::buckets() const {
  std::vector<Bucket> result;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    if (counts_[i] == 0) continue;
    const auto bound = [](std::size_t index) { return std::chrono::microseconds(start_of(index)); };
    result.push_back({.from = bound(i), .to = bound(i + 1), .count = counts_[i]});
  }
  return result;
}

// --- RecentSeconds --------------------------------------------------------------------------------------------------

void RecentSeconds::add(std::uint64_t second) noexcept {
  Entry& entry = entries_[static_cast<std::size_t>(second % entries_.size())];
  if (entry.second > second) return;
  if (entry.second < second) entry = {.second = second, .count = 0};
  ++entry.count;
}

std::uint32_t RecentSeconds::of(std::uint64_t second) const noexcept {
  const Entry& entry = entries_[static_cast<std::size_t>(second % entries_.size())];
  return entry.second == second ? entry.count : 0;
}

// --- Stats ----------------------------------------------------------------------------------------------------------

std::string Stats::line() const {
  std::string text = decimal(current_rate(*this), 1) + " fps";
  for (const StreamStats& stream : streams) {
    if (stream.branches.empty()) continue;
    const BranchStats& branch = stream.branches.front();
    if (streams.size() > 1) text += "  " + stream.name + ":";
    text += "  latency p50 " + millis_text(branch.latency.percentile(50)) + "  p99 " +
            millis_text(branch.latency.percentile(99)) + "  dropped " + std::to_string(branch.dropped.total());
    if (stream.lost > 0) text += "  lost " + std::to_string(stream.lost);
  }
  return text;
}

std::string Stats::json() const {
  return object({member("elapsed_s", decimal(std::chrono::duration<double>(elapsed).count(), 3)),
                 member("fps", decimal(current_rate(*this), 2)),
                 member("per_second", array(per_second, [](std::uint32_t count) { return std::to_string(count); })),
                 member("streams", array(streams, [](const StreamStats& stream) { return json_of(stream); }))});
}

}  // namespace dmaflow
