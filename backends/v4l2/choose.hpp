// Chooses the port of a device that meets a request. The rule is documented at Camera in <dmaflow/v4l2.hpp>.
#pragma once

#include "device.hpp"
#include "ports.hpp"

#include <vector>

namespace dmaflow::v4l2 {

/// How far the search may go.
enum class Search : std::uint8_t {
  as_is,      ///< the current port as it is: nothing is changed
  this_port,  ///< the current port; its timings may be set
  all_ports,
};

/// The streams that meet the request, best first. Leaves the device on their port, with their timings set; @p state
/// records the earlier settings. If nothing meets the request, everything is restored and the error (EINVAL) says what
/// the device has.
Result<std::vector<StreamConfig>> choose(const Device& device, const StreamRequest& request, Search search,
                                         PortState& state);

}  // namespace dmaflow::v4l2
