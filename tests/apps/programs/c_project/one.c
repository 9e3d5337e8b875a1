#include "project.h"
#include <math.h>
double one(double x) { return sqrt(x) + 1; }
