// Who can allocate for whom: each cell is a few buffers, allocated by the row and imported by the column, for real.
#pragma once

#include "probe_devices.hpp"

#include <dmaflow/error.hpp>
#include <dmaflow/format.hpp>
#include <dmaflow/layout.hpp>

#include <optional>
#include <string>
#include <vector>

struct MatrixOptions {
  std::optional<dmaflow::PixelFormat>
      format{};                         ///< unset: XR24 where the column takes it, else its first that both know
  std::optional<dmaflow::Size> size{};  ///< unset: the display's mode; 640x480 elsewhere, or what the device has
  bool may_show = false;                ///< show a buffer for a moment, to find out whether the driver moves it
};

/// A row or a column.
struct Party {
  std::string id;     ///< "camera:/dev/video0"; the same for a device's row and its column
  std::string group;  ///< "camera", "display", ...
  std::string label;  ///< "video0"
};

struct Cell {
  std::optional<dmaflow::Error> refusal{};  ///< unset: it works
  std::string note{};                       ///< of one that works: what to know about it
  dmaflow::Layout layout{};                 ///< of the buffers; where none was made, size and format asked for
  std::string origin{};                     ///< Buffer::origin(); empty where none was made
};

struct Matrix {
  std::vector<Party> allocators;         ///< rows
  std::vector<Party> users;              ///< columns
  std::vector<std::vector<Cell>> cells;  ///< by row, then by column
};

/// Tries every cell. Cameras and outputs get their formats back, and no display changes its mode (but see may_show).
/// Stops early, with rows missing, once @p progress is told to stop.
Matrix try_matrix(const MatrixOptions& options, Progress& progress);

Json as_json(const Matrix& matrix);
