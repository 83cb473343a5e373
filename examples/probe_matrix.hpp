// Which allocators work with which devices. For each cell a few buffers are really allocated by the row and imported by
// the column.
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
      format{};                         ///< unset: XR24 if the column takes it, else its first format that both know
  std::optional<dmaflow::Size> size{};  ///< unset: the display's mode; for others 640x480, or what the device has
  bool may_show = false;                ///< show a buffer briefly, to find out whether the driver moves it
};

/// A row or a column.
struct Party {
  std::string id;     ///< "camera:/dev/video0"; the same for a device's row and its column
  std::string group;  ///< "camera", "display", ...
  std::string label;  ///< "video0"
};

struct Cell {
  std::optional<dmaflow::Error> refusal{};  ///< unset: it works
  std::string note{};                       ///< a remark about a cell that works
  dmaflow::Layout layout{};                 ///< of the buffers; if none was made, the requested size and format
  std::string origin{};                     ///< Buffer::origin(); empty if none was made
};

struct Matrix {
  std::vector<Party> allocators;         ///< rows
  std::vector<Party> users;              ///< columns
  std::vector<std::vector<Cell>> cells;  ///< by row, then by column
};

/// Tries every cell. Then restores the formats of cameras and outputs. No display changes its mode (but see may_show).
/// Stops early, with rows missing, once @p progress was asked to stop.
Matrix try_matrix(const MatrixOptions& options, Progress& progress);

Json as_json(const Matrix& matrix);
