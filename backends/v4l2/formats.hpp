// Formats: those the current port lists, and those of them that meet a request.
#pragma once

#include "device.hpp"

#include <dmaflow/device.hpp>

#include <optional>
#include <string>
#include <vector>

namespace dmaflow::v4l2 {

std::vector<Format> list_formats(const Device& device);
/// The device's own code for a stream: several codes may mean the same format, and each device lists its own choice.
/// Errors: EINVAL with what the device has.
Result<Format> code_for(const Device& device, const StreamConfig& config);
std::vector<SizeRange> list_sizes(const Device& device, std::uint32_t code);
std::vector<IntervalRange> list_intervals(const Device& device, std::uint32_t code, Size size);

/// The current interval (G_PARM, or that of the DV timings); 0/0 if the device does not report one.
Interval current_interval(const Device& device) noexcept;
/// Asks for an interval (S_PARM) and returns the one the device chose.
Interval set_interval(const Device& device, Interval wanted) noexcept;

/// The streams of the current port that meet the request, best first: the current size before the others, larger before
/// smaller; within a size in the order of the request's formats, else of the device's, compressed ones last.
/// @p native_only: only sizes that the device lists one by one. @p why: set if the device failed rather than refused.
std::vector<StreamConfig> matching(const Device& device, const StreamRequest& request, bool native_only,
                                   std::optional<Error>& why);

/// For an error: "XR24 NV12 ...; 640x480 at 30/s, ...", truncated.
std::string what_it_has(const Device& device);

}  // namespace dmaflow::v4l2
