// Ports: the inputs of a camera or the connectors of an output device, and the DV timings on them.
#pragma once

#include "device.hpp"

#include <optional>
#include <string_view>
#include <vector>

namespace dmaflow::v4l2 {

/// The ports; empty if the device has none to choose from.
std::vector<Port> ports(const Device& device);
/// By number, name or beginning of the name. EINVAL lists the existing ones.
Result<Port> find_port(const Device& device, std::string_view name);
std::optional<std::uint32_t> current_port(const Device& device) noexcept;
/// True if an input reports that it receives nothing usable (the status of VIDIOC_ENUMINPUT).
bool has_problem(const Device& device, std::uint32_t input) noexcept;
Result<void> set_port(const Device& device, std::uint32_t index) noexcept;
/// Finds the port and switches to it.
Result<Port> go_to_port(const Device& device, std::string_view name);

/// Ignores case.
bool begins_with(std::string_view text, std::string_view beginning) noexcept;

Timings describe(const v4l2_bt_timings& bt) noexcept;
Result<v4l2_dv_timings> detect_timings(const Device& device) noexcept;
/// No signal, or no stable one: the errors of detect_timings() until there is one.
bool is_no_signal(const Error& error) noexcept;
std::optional<v4l2_dv_timings> current_timings(const Device& device) noexcept;
Result<void> set_timings(const Device& device, const v4l2_dv_timings& timings) noexcept;
std::vector<v4l2_dv_timings> list_timings(const Device& device);
/// The progressive timings of @p size nearest to @p wanted; without it, the fastest up to 60/s. nullopt if there are
/// none of that size (or, with @p wanted, none within a percent of that rate).
std::optional<v4l2_dv_timings> choose_timings(const std::vector<v4l2_dv_timings>& list, Size size,
                                              std::optional<Interval> wanted);

/// The settings that a port choice changed, to be restored: the port, and the timings or standard of every port that
/// was set.
class PortState {
 public:
  explicit PortState(const Device& device) : port_(current_port(device)) {}
  /// Records the timings or the standard of the current port, before they are changed.
  void remember(const Device& device);
  /// Restores everything; the queue must be closed. Errors are ignored: if the device is gone, or another program now
  /// uses it, there is nothing to restore.
  void restore(const Device& device) const noexcept;
  /// Adds what @p later recorded for ports that are not recorded here.
  void merge(const PortState& later);

 private:
  [[nodiscard]] bool knows(std::optional<std::uint32_t> port) const noexcept;
  struct Remembered {
    std::optional<std::uint32_t> port;
    std::optional<v4l2_dv_timings> timings;
    std::optional<v4l2_std_id> standard;
  };
  std::optional<std::uint32_t> port_;
  std::vector<Remembered> settings_;
};

}  // namespace dmaflow::v4l2
